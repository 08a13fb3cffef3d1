"""Give the score gradients of all layers the same scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def equalise_gradients(optimizer: torch.optim.Optimizer, scores: Sequence[nn.Parameter]) -> None:
    """Before each step of `optimizer`, scale the gradients of each layer's scores to the mean rms over layers.

    ∂L/∂s = ∂L/∂w_eff ⊙ w differs by orders of magnitude between layers, but a mask depends only on the order of the
    scores within its layer. Without scaling, masks with large gradients churn and those with small ones hardly change.
    g_l ← g_l · mean_k rms(g_k) / rms(g_l); layers without gradients are skipped. No state is kept between steps.
    """

    @torch.no_grad()
    def scale(*_: Any) -> None:
        gradients = [s.grad for s in scores if s.grad is not None]
        if not gradients:
            return
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        roots = [g.numel() ** 0.5 for g in gradients]
        rms = torch.stack(torch._foreach_div(norms, roots))  # pyright: ignore[reportPrivateImportUsage]
        factors = torch.where(rms > 0, rms.mean() / rms, 1.0)
        torch._foreach_mul_(gradients, factors.unbind())  # pyright: ignore[reportPrivateImportUsage]

    optimizer.register_step_pre_hook(scale)
