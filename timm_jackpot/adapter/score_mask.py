"""One layer's scores and mask, as a parametrization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from timm_jackpot.adapter.product import Product, ReusedMemory
from timm_jackpot.masks import LargestKept, keep_largest, keep_n_of_m


class _StraightThrough(torch.autograd.Function):
    """Forward h(s) ⊙ w; backward ∂L/∂s = ∂L/∂w_eff ⊙ w for *every* score, kept or not (Eqs. 4 and 6)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor, product: Product | None) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.product = product
        return weight * mask if product is None else product.value.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, mask = ctx.saved_tensors
        grad_weight = grad * mask if ctx.needs_input_grad[0] else None
        grad_scores = None
        if ctx.needs_input_grad[1]:
            memory = None if ctx.product is None else ctx.product.memory_for_gradient()
            grad_scores = (grad * weight if memory is None else torch.mul(grad, weight, out=memory)).float()
        return grad_weight, grad_scores, None, None


class ScoreMask(nn.Module):
    """Scores (fp32, trained) and the current mask of one weight.

    The mask is a plain attribute, not a buffer: DDP broadcasts buffers in every forward, and a state dict
    of the attached model should hold nothing that can be derived from the scores. It keeps the weight's
    memory format, so that masking is one pass over memory.

    Args:
        reuse_memory: see `attach`.
    """

    mask: Tensor

    def __init__(
        self,
        weight: Tensor,
        scores: Tensor,
        kept: int,
        n_of_m: tuple[int, int] | None = None,
        *,
        reuse_memory: bool = False,
    ) -> None:
        super().__init__()
        self._n_of_m = n_of_m
        self._largest_kept = LargestKept()
        self._memory = ReusedMemory() if reuse_memory else None
        assert scores.shape == weight.shape
        start = torch.empty_like(weight, dtype=torch.float32).copy_(scores)
        self.scores = nn.Parameter(start)
        self.mask = torch.ones_like(weight, dtype=torch.bool)
        self.refresh(kept)

    def forward(self, weight: Tensor) -> Tensor:
        product = None
        if self._memory is not None and not torch.compiler.is_compiling() and _is_frozen_on_cpu(weight, self.mask):
            product = self._memory.product(weight, self.mask)
        return _StraightThrough.apply(weight, self.scores, self.mask, product)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def refresh(self, kept: int) -> Tensor:
        """Recompute the mask from the scores: exactly `kept` weights. Returns how many elements flipped.

        An N:M pattern is kept first; a `kept` above it (a schedule on its way there) adds the largest of the others.
        """
        scores = self.scores
        if self._n_of_m is not None:
            pattern = keep_n_of_m(scores, *self._n_of_m)
            scores = scores.masked_fill(pattern & ~scores.isnan(), torch.inf)  # NaN must not pass for a score
        if self.mask.device.type != "cpu":
            mask = keep_largest(scores, kept)
            flipped = (mask ^ self.mask).count_nonzero()
            self.mask.copy_(mask)
            return flipped
        at = self._largest_kept.flips(self.mask, scores, kept)
        flat = self.mask.reshape(-1)
        flat.index_copy_(0, at, ~flat.index_select(0, at))
        if not self.mask.is_contiguous():
            self.mask.copy_(flat.view_as(self.mask))
        return torch.tensor(len(at))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScoreMask:
        super()._apply(fn, recurse)
        if self._memory is not None:
            self._memory = ReusedMemory()  # the weight is about to be replaced
        self.mask = fn(self.mask).bool()  # follows .to(device) and .to(memory_format=…) like a buffer would
        return self


def _is_frozen_on_cpu(weight: Tensor, mask: Tensor) -> bool:
    """Whether writes to both are rare and counted: neither a tensor put in the weight's place, nor one that is trained
    (fused optimizers do not count), nor tensors of inference mode."""
    ours = type(weight) is nn.Parameter and weight.device.type == "cpu" and not weight.requires_grad
    return ours and not weight.is_inference() and not mask.is_inference()
