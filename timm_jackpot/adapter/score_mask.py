"""The scores of one layer, as a parametrization that masks its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from timm_jackpot.masks import group_thresholds, keep_largest, keep_n_of_m, threshold_of
from timm_jackpot.runtime.sharding import whole

# Of a removed filter: at zero, ReLU has no gradient that could bring the filter back.
_LEAK = 1e-3


class _StraightThrough(torch.autograd.Function):
    """Forward (s ≥ τ) ⊙ w; backward ∂L/∂s = ∂L/∂w_eff ⊙ w for *every* score, kept or not (Eqs. 4 and 6).

    The score of a filter stands for all of its weights: its gradient is the sum of theirs.

    Args:
        leak: what removed weights are multiplied by.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, threshold: Tensor, leak: float) -> Tensor:
        ctx.scores_shape = scores.shape
        ctx.save_for_backward(weight, scores >= threshold if ctx.needs_input_grad[0] else None)
        if leak:
            return torch.where(scores >= threshold, weight, leak * weight)
        # Zeros and ones directly in the weight's dtype: a boolean tensor is several times as slow on a CPU.
        return torch.ge(scores, threshold, out=torch.empty_like(weight, requires_grad=False)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, mask = ctx.saved_tensors
        grad_weight = None if mask is None else grad * mask
        grad_scores = (grad * weight).float().sum_to_size(ctx.scores_shape) if ctx.needs_input_grad[1] else None
        return grad_weight, grad_scores, None, None


class OnWeight(nn.Module):
    """A parametrization of a weight, put on by `put_on` and removed by `detach`."""


class ScoreMask(OnWeight):
    """The trained scores (fp32) of one weight tensor, and the threshold below which its weights are removed.

    The threshold is exact when it is refreshed. Between refreshes scores cross it, so the kept count drifts; all ties
    at the threshold are kept. `mask()` always has exact counts.

    The threshold is a plain attribute, not a buffer: DDP broadcasts buffers in every forward pass, and the state dict
    should hold nothing that can be derived from the scores.

    Args:
        scores: in the shape of the weight; or a parameter [F] that layers share, with one for each of the weight's F
            filters.
        kept: how many weights to keep; with scores of filters, it is rounded down to whole ones.
    """

    threshold: Tensor
    kept: int

    def __init__(self, weight: Tensor, scores: Tensor, kept: int, n_of_m: tuple[int, int] | None = None) -> None:
        super().__init__()
        self._n_of_m = n_of_m
        self._shape, self._unit = weight.shape, weight.numel() // scores.numel()
        self._leak = _LEAK if scores.dim() < weight.dim() else 0.0
        if self._leak:
            assert isinstance(scores, nn.Parameter)
            assert len(scores) == len(weight)
            self.scores = scores
        else:
            assert scores.shape == weight.shape
            # In the weight's memory format, so that masking is a single pass over memory.
            self.scores = nn.Parameter(torch.empty_like(weight, dtype=torch.float32).copy_(scores))
        one = self.scores.new_empty(())
        self.threshold = one if n_of_m is None else torch.empty_like(self.scores, requires_grad=False)
        self.refresh(kept)

    def forward(self, weight: Tensor) -> Tensor:
        scores = self.scores.view(-1, *[1] * (weight.dim() - 1)) if self._leak else self.scores
        return _StraightThrough.apply(weight, scores, self.threshold, self._leak)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def refresh(self, kept: int, threshold: Tensor | None = None) -> None:
        """Set the threshold that exactly `kept` of the current scores reach, or more if there are ties.

        With an N:M pattern, each group has its own threshold. While a schedule keeps more weights than the pattern, the
        thresholds are lowered to let in the largest of the others.

        Args:
            threshold: if it is known already, of scores that are sharded.
        """
        self.kept = kept
        if threshold is None:
            threshold = threshold_of(self._pattern_first(), kept // self._unit)
        if self._n_of_m is not None:
            threshold = torch.minimum(threshold, group_thresholds(self.scores, *self._n_of_m))
        self.threshold.copy_(threshold)

    @torch.no_grad()
    def mask(self, kept: int | None = None) -> Tensor:
        """The mask of the current scores, with exactly `kept` weights (default: as at the last refresh)."""
        wanted = self.kept if kept is None else kept
        mask = keep_largest(self._pattern_first(), wanted // self._unit)
        return mask.view(*mask.shape, *[1] * (len(self._shape) - mask.dim())).expand(self._shape)

    def _pattern_first(self) -> Tensor:
        """The scores, with those in the N:M pattern (if any) set to infinity."""
        scores = whole(self.scores.detach())
        if self._n_of_m is None:
            return scores
        pattern = keep_n_of_m(scores, *self._n_of_m)
        return scores.masked_fill(pattern & ~scores.isnan(), torch.inf)  # a NaN must stay visible

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScoreMask:
        super()._apply(fn, recurse)
        self.threshold = fn(self.threshold)  # follows .to(device) and .to(memory_format=…) as a buffer would
        return self
