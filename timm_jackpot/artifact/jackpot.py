"""`Jackpot`: base + masks + every other tensor that the search changed. A search finds it, an artifact stores it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from timm_jackpot.base import Base, Maskable
from timm_jackpot.masks import MaskSet


class Extra(NamedTuple):
    """A float tensor that the search changed besides the mask."""

    role: Literal["norm_statistics", "norm_affine", "head"]
    tensor: Tensor


@dataclass(frozen=True)
class Jackpot:
    base: Base
    maskable: Maskable
    masks: MaskSet
    extras: dict[str, Extra]
    sparsity: str  # as requested, an exact decimal
    allocation: str  # global, uniform, erk, or a pattern such as 2:4
    data: dict[str, Any]  # timm's data config
    labels: tuple[str, ...] | None = None  # class names of a new head
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def kept_of_all(self) -> tuple[int, int]:
        """Number of parameters kept, and of all parameters."""
        total = sum(parameter.numel() for parameter in self.base.model.parameters())
        return total - (self.masks.total - self.masks.kept), total
