"""`Jackpot`: base + masks + every other tensor that moved; what a search finds and an artifact holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from timm_jackpot.base import Base, Maskable
from timm_jackpot.masks import MaskSet


class Extra(NamedTuple):
    """A float tensor that the search let move, by its state-dict name elsewhere."""

    role: Literal["norm_statistics", "norm_affine", "head"]
    tensor: Tensor


@dataclass(frozen=True)
class Jackpot:
    base: Base
    maskable: Maskable
    masks: MaskSet
    extras: dict[str, Extra]
    sparsity: str  # as requested, an exact decimal
    allocation: str  # global, uniform, erk, or N:M in figures
    data: dict[str, Any]  # timm's data config
    labels: tuple[str, ...] | None = None  # class names of a new head
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def kept_of_all(self) -> tuple[int, int]:
        """Parameters that are left, and parameters in all: the sparsity that a file size sees."""
        total = sum(parameter.numel() for parameter in self.base.model.parameters())
        return total - (self.masks.total - self.masks.kept), total
