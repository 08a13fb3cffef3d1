"""One layer's scores and mask, as a parametrization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from timm_jackpot.masks import keep_largest, keep_n_of_m


class _StraightThrough(torch.autograd.Function):
    """Forward h(s) ⊙ w; backward ∂L/∂s = ∂L/∂w_eff ⊙ w for *every* score, kept or not (Eqs. 4 and 6)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, mask = ctx.saved_tensors
        grad_weight = grad * mask if ctx.needs_input_grad[0] else None
        grad_scores = (grad * weight).float() if ctx.needs_input_grad[1] else None
        return grad_weight, grad_scores, None


class ScoreMask(nn.Module):
    """Scores (fp32, trained) and the current mask of one weight.

    The mask is a plain attribute, not a buffer: DDP broadcasts buffers in every forward, and a state dict
    of the attached model should hold nothing that can be derived from the scores. It keeps the weight's
    memory format, so that masking is one pass over memory.
    """

    mask: Tensor

    def __init__(self, weight: Tensor, scores: Tensor, kept: int, n_of_m: tuple[int, int] | None = None) -> None:
        super().__init__()
        self._n_of_m = n_of_m
        assert scores.shape == weight.shape
        start = torch.empty_like(weight, dtype=torch.float32).copy_(scores)
        self.scores = nn.Parameter(start)
        self.mask = torch.ones_like(weight, dtype=torch.bool)
        self.refresh(kept)

    def forward(self, weight: Tensor) -> Tensor:
        return _StraightThrough.apply(weight, self.scores, self.mask)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def refresh(self, kept: int) -> Tensor:
        """Recompute the mask from the scores: exactly `kept` weights. Returns how many elements flipped.

        An N:M pattern is kept first; a `kept` above it (a schedule on its way there) adds the largest of the others.
        """
        scores = self.scores
        if self._n_of_m is not None:
            pattern = keep_n_of_m(scores, *self._n_of_m)
            scores = scores.masked_fill(pattern & ~scores.isnan(), torch.inf)  # NaN must not pass for a score
        mask = keep_largest(scores, kept)
        flipped = (mask ^ self.mask).count_nonzero()
        self.mask.copy_(mask)
        return flipped

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScoreMask:
        super()._apply(fn, recurse)
        self.mask = fn(self.mask)  # follows .to(device) and .to(memory_format=…) like a buffer would
        return self
