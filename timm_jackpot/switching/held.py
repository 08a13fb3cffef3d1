"""`Held`: what one more jackpot costs in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from timm_jackpot.artifact import Artifact
from timm_jackpot.masks import MaskSet, pack


@dataclass(frozen=True)
class Held:
    """A jackpot in memory, on the CPU: one bit per masked weight, and the other tensors that moved."""

    packed: dict[str, Tensor]  # U8 [ceil(n/8)], by weight name
    extras: dict[str, Tensor]  # F32, by state-dict name
    num_classes: int
    data: dict[str, Any]  # timm's data config

    @classmethod
    def of(cls, artifact: Artifact, masks: MaskSet) -> Held:
        """An artifact that was checked against the base, and its masks."""
        packed = {name: pack(mask) for name, mask in masks.items()}
        config = artifact.config
        return cls(packed, dict(artifact.extras), config.base.num_classes, config.data.model_dump())
