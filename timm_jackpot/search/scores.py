"""Initial scores: a criterion's values, brought to the scale that the search works on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from timm_jackpot.masks import keep_largest


def proportional_scores(criterion: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """scale · c / rms(c), layer by layer: the criterion's order *and* its distances."""
    return {
        name: values * (scale / values.square().mean().sqrt().clamp_min(torch.finfo(values.dtype).tiny))
        for name, values in criterion.items()
    }


def two_level_scores(criterion: Mapping[str, Tensor], kept: Mapping[str, int], low: float) -> dict[str, Tensor]:
    """1 for the `kept` largest of each layer, `low` for the others (the seeds' warm start, Sec. 3.3)."""
    return {name: torch.where(keep_largest(values, kept[name]), 1.0, low) for name, values in criterion.items()}
