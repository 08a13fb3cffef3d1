"""`MaskSet`: one boolean mask per maskable weight, ordered, immutable, hashable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from timm_jackpot.masks.packing import pack


class MaskSet(Mapping[str, Tensor]):
    """Ordered mapping of weight name → boolean mask (True = kept), held on the CPU.

    Raises:
        ValueError: for a name that is not a non-empty string or a mask that is not a boolean tensor.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"a mask needs the name of its weight, not {name!r}")
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise ValueError(f"mask of {name} must be a boolean tensor (True = kept)")
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
        """Fraction of the maskable weights that is removed."""
        return 1 - self.kept / self.total if self.total else 0.0

    def kept_per_layer(self) -> dict[str, int]:
        return {name: int(np.count_nonzero(mask.numpy())) for name, mask in self.items()}

    def hash(self) -> str:
        """sha256 (hex) over the packed bytes of all layers, in order: the artefact's `mask_hash`."""
        digest = hashlib.sha256()
        for mask in self.values():
            digest.update(pack(mask).numpy().tobytes())
        return digest.hexdigest()


def chance_overlap(a: MaskSet, b: MaskSet) -> float:
    """The overlap to expect of two random mask sets with the layer densities of `a` and `b`.

    Σ n_l · (d_a d_b + (1 − d_a)(1 − d_b)) / Σ n_l: 82 % for two masks of 90 % sparsity.

    Raises:
        ValueError: as `mask_overlap`.
    """
    _check_comparable(a, b)
    kept_a, kept_b = a.kept_per_layer(), b.kept_per_layer()
    agreeing = 0.0
    for name, mask in a.items():
        n = mask.numel()
        if n:
            agreeing += (kept_a[name] * kept_b[name] + (n - kept_a[name]) * (n - kept_b[name])) / n
    return agreeing / a.total


def mask_overlap(a: MaskSet, b: MaskSet) -> float:
    """Fraction of elements on which two mask sets agree (Eq. 7): 1 − ‖a − b‖₁ / k.

    It means little without `chance_overlap` beside it.

    Raises:
        ValueError: if the two do not cover the same weights.
    """
    _check_comparable(a, b)
    differing = sum(int((mask ^ b[name]).count_nonzero()) for name, mask in a.items())
    return 1 - differing / a.total


def _check_comparable(a: MaskSet, b: MaskSet) -> None:
    if {n: m.shape for n, m in a.items()} != {n: m.shape for n, m in b.items()}:
        raise ValueError("an overlap needs two mask sets over the same weights")
    if not a.total:
        raise ValueError("an overlap of empty mask sets is undefined")
