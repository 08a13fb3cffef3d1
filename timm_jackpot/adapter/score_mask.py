"""One layer's scores and mask, as a parametrization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from timm_jackpot.masks import LargestKept, keep_largest, keep_n_of_m


class _StraightThrough(torch.autograd.Function):
    """Forward h(s) ⊙ w; backward ∂L/∂s = ∂L/∂w_eff ⊙ w for *every* score, kept or not (Eqs. 4 and 6)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor, product: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, mask)
        return weight * mask if product is None else product

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, mask = ctx.saved_tensors
        grad_weight = grad * mask if ctx.needs_input_grad[0] else None
        grad_scores = (grad * weight).float() if ctx.needs_input_grad[1] else None
        return grad_weight, grad_scores, None, None


class _Product(NamedTuple):
    """h(s) ⊙ w as it was when weight, mask and it had these versions (torch counts writes in place, but not those
    through `.data` or numpy)."""

    value: Tensor
    weight: Tensor
    versions: tuple[int, int, int]


class ScoreMask(nn.Module):
    """Scores (fp32, trained) and the current mask of one weight.

    The mask is a plain attribute, not a buffer: DDP broadcasts buffers in every forward, and a state dict
    of the attached model should hold nothing that can be derived from the scores. It keeps the weight's
    memory format, so that masking is one pass over memory.

    Args:
        keep_product: see `attach`.
    """

    mask: Tensor

    def __init__(
        self,
        weight: Tensor,
        scores: Tensor,
        kept: int,
        n_of_m: tuple[int, int] | None = None,
        *,
        keep_product: bool = False,
    ) -> None:
        super().__init__()
        self._n_of_m = n_of_m
        self._keep_product = keep_product
        self._largest_kept = LargestKept()
        self._product: _Product | None = None
        assert scores.shape == weight.shape
        start = torch.empty_like(weight, dtype=torch.float32).copy_(scores)
        self.scores = nn.Parameter(start)
        self.mask = torch.ones_like(weight, dtype=torch.bool)
        self.refresh(kept)

    def forward(self, weight: Tensor) -> Tensor:
        # On a CPU the fresh memory of a product costs several times the product, and few of its elements change
        # from step to step. Elsewhere, and compiled, it is made in every forward.
        keep = self._keep_product and not torch.compiler.is_compiling() and _has_versions(weight)
        product = self._product_with(weight) if keep else None
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
        product = self._current_product()
        at = self._largest_kept.flips(self.mask, scores, kept)
        flat = self.mask.reshape(-1)
        flipped = ~flat.index_select(0, at)
        flat.index_copy_(0, at, flipped)
        if not self.mask.is_contiguous():
            self.mask.copy_(flat.view_as(self.mask))
        self._product = None
        if product is not None and _all_flat(product.value, product.weight, self.mask):
            changed = product.weight.view(-1).index_select(0, at) * flipped
            product.value.view(-1).index_copy_(0, at, changed)
            self._product = product._replace(versions=self._versions(product.weight, product.value))
        return torch.tensor(len(at))

    def _current_product(self) -> _Product | None:
        """The product that was made last, if neither weight nor mask nor it was written to since."""
        product = self._product
        if product is None or product.versions != self._versions(product.weight, product.value):
            return None
        return product

    def _product_with(self, weight: Tensor) -> Tensor:
        product = self._current_product()
        if product is None or product.weight is not weight:
            # Outside inference mode, whose tensors no later training step could use.
            with torch.inference_mode(mode=False), torch.no_grad():
                value = weight * self.mask
                product = self._product = _Product(value, weight, self._versions(weight, value))
        return product.value

    def _versions(self, weight: Tensor, value: Tensor) -> tuple[int, int, int]:
        return weight._version, self.mask._version, value._version

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_product": None}  # a copy's tensors count their versions anew

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScoreMask:
        super()._apply(fn, recurse)
        self._product = None  # the weight is about to be replaced
        self.mask = fn(self.mask).bool()  # follows .to(device) and .to(memory_format=…) like a buffer would
        return self


def _has_versions(weight: Tensor) -> bool:
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and not weight.is_inference()


def _all_flat(*tensors: Tensor) -> bool:
    return all(tensor.is_contiguous() for tensor in tensors)
