"""Sparse training: sub-networks whose own weights are trained, from random or from pre-trained weights."""

from timm_jackpot.methods.sparse import at_init, gradual, rigl, set_evolution  # importing registers them
from timm_jackpot.methods.sparse.change import drop_and_grow, drop_smallest, grow_largest
from timm_jackpot.methods.sparse.network import SparseWeights

__all__ = [
    "SparseWeights",
    "at_init",
    "drop_and_grow",
    "drop_smallest",
    "gradual",
    "grow_largest",
    "rigl",
    "set_evolution",
]
