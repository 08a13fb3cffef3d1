from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from timm_jackpot.criteria.registry import register_criterion


@register_criterion("random", paper="a control")
def random(weights: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Uniform scores in [0, 1), drawn on the CPU so that a seed gives the same scores on every device."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}
