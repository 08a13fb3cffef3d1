"""How masks change in sparse training: pure functions with exact counts, in which ties keep the first in C order."""

from __future__ import annotations

from collections.abc import Mapping

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


def share_out(total: int, shares: Mapping[str, float], room: Mapping[str, int]) -> dict[str, int]:
    """Share `total` out in proportion to `shares`, none above its room; what does not fit goes to the others.

    Counts are exact: fractions are settled by the largest remainders, ties by the order of `room`.

    Args:
        shares: not negative; if all that have room are zero, room itself decides.
        room: at least `total` in all.
    """
    assert total <= sum(room.values()), (total, sum(room.values()))
    given = dict.fromkeys(room, 0)
    while (left := total - sum(given.values())) > 0:
        open_ = [name for name in room if given[name] < room[name]]
        weight = {name: shares[name] for name in open_}
        if sum(weight.values()) <= 0:
            weight = {name: float(room[name] - given[name]) for name in open_}
        exact = {name: left * weight[name] / sum(weight.values()) for name in open_}
        whole = {name: min(int(exact[name]), room[name] - given[name]) for name in open_}
        if not any(whole.values()):  # fewer are left than there are layers
            by_remainder = sorted(open_, key=lambda name: -exact[name])  # a stable sort
            whole = dict.fromkeys(by_remainder[:left], 1)
        for name, count in whole.items():
            given[name] += count
    return given


def random_scores(mask: Tensor, *, generator: torch.Generator) -> Tensor:
    """Uniform scores in [0, 1), drawn on the CPU."""
    return torch.rand(mask.shape, generator=generator).to(mask.device)
