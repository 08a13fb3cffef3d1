"""How masks change in sparse training: pure functions with exact counts, in which ties keep the first in C order."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_jackpot.masks import keep_largest


def drop_smallest(weights: Tensor, mask: Tensor, count: int) -> Tensor:
    """The mask without its `count` smallest weights in magnitude."""
    kept = int(mask.count_nonzero()) - count
    assert kept >= 0, (kept, count)
    return keep_largest(torch.where(mask, weights.detach().abs().float(), -1.0), kept)


def grow_largest(scores: Tensor, mask: Tensor, count: int) -> Tensor:
    """The mask with the `count` best-scored positions outside it. Scores are finite and not negative.

    Random growth is growth by random scores.
    """
    free = mask.numel() - int(mask.count_nonzero())
    assert count <= free, (count, free)
    return mask | keep_largest(torch.where(mask, -1.0, scores.detach().float()), count)


def drop_and_grow(weights: Tensor, mask: Tensor, scores: Tensor, count: int) -> Tensor:
    """Drop the `count` smallest weights, then grow as many where the scores are largest.

    As in RigL, what was just dropped may grow again.
    """
    left = drop_smallest(weights, mask, count)
    return grow_largest(scores, left, count)


def random_scores(mask: Tensor, *, generator: torch.Generator) -> Tensor:
    """Uniform scores in [0, 1), drawn on the CPU."""
    return torch.rand(mask.shape, generator=generator).to(mask.device)
