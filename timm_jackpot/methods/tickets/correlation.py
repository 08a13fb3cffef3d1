"""How much of the largest weights two networks have in common (Ma et al. 2021, App. G)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from timm_jackpot.masks import MaskSet, keep_largest


def magnitude_correlation(
    some: Mapping[str, Tensor], others: Mapping[str, Tensor], masks: MaskSet, *, p: float = 0.2
) -> float:
    """R_p: the fraction of the p · n largest of the n kept weights that are the same ones in both networks.

    It is p on average for unrelated weights, and 1 for equal ones.

    Args:
        some, others: weights by name, at least those of `masks`.
        p: in (0, 1].
    """
    tops = []
    for weights in (some, others):
        kept = torch.cat([weights[name].detach().cpu().abs().float()[mask] for name, mask in masks.items()])
        tops.append(keep_largest(kept, round(p * len(kept))))
    return int((tops[0] & tops[1]).count_nonzero()) / max(1, int(tops[0].count_nonzero()))
