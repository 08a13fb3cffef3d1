"""Give the score gradients of all layers the same scale."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from timm_jackpot.runtime.sharding import local

# For gradients through a trained head, whose scale is arbitrary; chosen on held-out images (hubcards/RESULTS.md). A
# ResNet-20 searched in its own classes peaks at about 0.004.
NEW_HEAD_RMS = 0.0025


def equalise_gradients(
    optimizer: torch.optim.Optimizer, scores: Sequence[nn.Parameter], *, max_rms: float = inf
) -> None:
    """Before each step of `optimizer`, scale the gradients of each layer's scores to the mean rms over layers.

    ∂L/∂s = ∂L/∂w_eff ⊙ w differs by orders of magnitude between layers, but a mask depends only on the order of the
    scores within its layer. Without scaling, masks with large gradients churn and those with small ones hardly change.
    g_l ← g_l · mean_k rms(g_k) / rms(g_l); layers without gradients are skipped. No state is kept between steps.

    Args:
        max_rms: the largest common rms; a larger mean is replaced by it. `NEW_HEAD_RMS` where a head is trained: its
            norm can grow, and the score gradients with it, until the masks churn.
    """

    @torch.no_grad()
    def scale(*_: Any) -> None:
        gradients = [s.grad for s in scores if s.grad is not None]
        if not gradients:
            return
        roots = [g.numel() ** 0.5 for g in gradients]
        shards = [local(g) for g in gradients]
        norms = torch._foreach_norm(shards)  # pyright: ignore[reportPrivateImportUsage]
        rms = torch.stack(torch._foreach_div(norms, roots))  # pyright: ignore[reportPrivateImportUsage]
        if isinstance(gradients[0], DTensor):  # from those of the shards
            torch.distributed.all_reduce(rms.square_())
            rms.sqrt_()
        common = rms.mean().clamp(max=max_rms)
        factors = torch.where(rms > 0, common / rms, 1.0)
        torch._foreach_mul_(shards, factors.unbind())  # pyright: ignore[reportPrivateImportUsage]

    optimizer.register_step_pre_hook(scale)
