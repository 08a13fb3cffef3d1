"""`MaskSet`: one boolean mask per maskable weight, ordered, immutable, hashable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from timm_jackpot.masks.packing import pack


class MaskSet(Mapping[str, Tensor]):
    """Ordered mapping of weight name → boolean mask (True = kept), held on the CPU.

    For two mask sets over the same weights, `a | b` keeps what either keeps, `a & b` what both keep, and `a - b` what
    `a` keeps and `b` removes; layers stay in the order of `a`.

    Raises:
        ValueError: for a name that is not a non-empty string or a mask that is not a boolean tensor.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"a mask needs the name of its weight as a string, not {name!r}")
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise ValueError(f"the mask of {name} must be a boolean tensor (True = kept)")
        self._masks = {name: mask.detach().to("cpu", copy=True).contiguous() for name, mask in masks.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskSet):
            return NotImplemented
        return list(self) == list(other) and all(torch.equal(mask, other[name]) for name, mask in self.items())

    def __hash__(self) -> int:
        return hash(self.hash())

    def __or__(self, other: MaskSet) -> MaskSet:
        return self._combined(other, "a union", torch.logical_or)

    def __and__(self, other: MaskSet) -> MaskSet:
        return self._combined(other, "an intersection", torch.logical_and)

    def __sub__(self, other: MaskSet) -> MaskSet:
        return self._combined(other, "a difference", torch.gt)  # only True > False

    def _combined(self, other: MaskSet, what: str, combine: Callable[[Tensor, Tensor], Tensor]) -> MaskSet:
        """
        Raises:
            ValueError: if the two do not cover the same weights.
        """
        if not isinstance(other, MaskSet):
            return NotImplemented
        _check_same_weights(self, other, what)
        return MaskSet({name: combine(mask, other[name]) for name, mask in self.items()})

    def __repr__(self) -> str:
        return f"MaskSet({len(self)} layers, {self.kept} of {self.total} kept, sparsity {self.sparsity:.4f})"

    @property
    def kept(self) -> int:
        return sum(self.kept_per_layer().values())

    @property
    def total(self) -> int:
        return sum(mask.numel() for mask in self.values())

    @property
    def sparsity(self) -> float:
        """Fraction of the maskable weights that are removed."""
        return 1 - self.kept / self.total if self.total else 0.0

    def kept_per_layer(self) -> dict[str, int]:
        return {name: int(np.count_nonzero(mask.numpy())) for name, mask in self.items()}

    def hash(self) -> str:
        """sha256 (hex) of the packed bytes of all layers, in order: the artifact's `mask_hash`."""
        digest = hashlib.sha256()
        for mask in self.values():
            digest.update(pack(mask).numpy().tobytes())
        return digest.hexdigest()


class LayerOverlap(NamedTuple):
    """For one layer: the fraction of elements on which two masks agree, and the fraction expected by chance."""

    overlap: float
    chance: float


def chance_overlap(a: MaskSet, b: MaskSet) -> float:
    """The expected overlap of two random mask sets with the layer densities of `a` and `b`.

    Σ n_l · (d_a d_b + (1 − d_a)(1 − d_b)) / Σ n_l: 82 % for two masks at 90 % sparsity.

    Raises:
        ValueError: as `mask_overlap`.
    """
    _check_comparable(a, b)
    kept_a, kept_b = a.kept_per_layer(), b.kept_per_layer()
    return sum(_agreeing_by_chance(mask.numel(), kept_a[name], kept_b[name]) for name, mask in a.items()) / a.total


def mask_overlap(a: MaskSet, b: MaskSet) -> float:
    """Fraction of elements on which two mask sets agree (Eq. 7): 1 − ‖a − b‖₁ / k.

    Compare it with `chance_overlap`: on its own it means little.

    Raises:
        ValueError: if the two do not cover the same weights.
    """
    _check_comparable(a, b)
    differing = sum(int((mask ^ b[name]).count_nonzero()) for name, mask in a.items())
    return 1 - differing / a.total


def layer_overlaps(a: MaskSet, b: MaskSet) -> dict[str, LayerOverlap]:
    """`mask_overlap` and `chance_overlap` of each layer; empty layers are left out.

    Raises:
        ValueError: as `mask_overlap`.
    """
    _check_comparable(a, b)
    kept_a, kept_b = a.kept_per_layer(), b.kept_per_layer()
    return {
        name: LayerOverlap(
            1 - int((mask ^ b[name]).count_nonzero()) / mask.numel(),
            _agreeing_by_chance(mask.numel(), kept_a[name], kept_b[name]) / mask.numel(),
        )
        for name, mask in a.items()
        if mask.numel()
    }


def _agreeing_by_chance(n: int, kept_a: int, kept_b: int) -> float:
    """Expected number of `n` elements on which two random masks with these kept counts agree."""
    return (kept_a * kept_b + (n - kept_a) * (n - kept_b)) / n if n else 0.0


def _check_comparable(a: MaskSet, b: MaskSet) -> None:
    _check_same_weights(a, b, "an overlap")
    if not a.total:
        raise ValueError("the overlap of empty mask sets is undefined")


def _check_same_weights(a: MaskSet, b: MaskSet, what: str) -> None:
    for name in [*a, *b]:
        first, second = (tuple(masks[name].shape) if name in masks else "missing" for masks in (a, b))
        if first != second:
            raise ValueError(
                f"{what} needs two mask sets over the same weights: "
                f"{name} is {first} in the first and {second} in the second"
            )
