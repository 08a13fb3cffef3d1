"""Sparse training: sub-networks whose own weights are trained, from random or from pre-trained weights."""

from timm_jackpot.methods.sparse import (  # importing registers them
    at_init,
    deep_r,
    gradual,
    momentum,
    reparameterization,
    rigl,
    set_evolution,
    soft_threshold,
)
from timm_jackpot.methods.sparse.change import drop_and_grow, drop_smallest, grow_largest, share_out
from timm_jackpot.methods.sparse.network import SparseWeights

__all__ = [
    "SparseWeights",
    "at_init",
    "deep_r",
    "drop_and_grow",
    "drop_smallest",
    "gradual",
    "grow_largest",
    "momentum",
    "reparameterization",
    "rigl",
    "set_evolution",
    "share_out",
    "soft_threshold",
]
