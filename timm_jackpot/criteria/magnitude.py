from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from timm_jackpot.criteria.registry import register_criterion


@register_criterion("magnitude", paper="Han et al. 2015, arXiv:1506.02626")
def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w|, elementwise (Han et al. 2015): the warm start of Lottery Jackpots (Sec. 3.3)."""
    return {name: weight.detach().float().abs() for name, weight in weights.items()}
