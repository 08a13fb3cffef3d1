"""Scores → mask, with exact counts and deterministic ties (Eq. 5 of Lottery Jackpots)."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_largest(scores: Tensor, kept: int) -> Tensor:
    """Boolean mask of exactly `kept` largest scores; of equal ones the first in C order is kept.

    h(s)_i = 1 where s_i is among the `kept` largest of s, else 0. One selection (no sort) and no
    host-device synchronisation.

    Args:
        scores: real tensor of any shape and memory format, without NaN.
        kept: how many elements to keep, 0 ≤ kept ≤ n.

    Returns:
        A contiguous boolean tensor of the same shape.
    """
    n = scores.numel()
    assert 0 <= kept <= n, (kept, n)
    if kept in (0, n):
        return torch.full(scores.shape, kept == n, dtype=torch.bool, device=scores.device)
    flat = scores.detach().reshape(-1)
    threshold = torch.kthvalue(flat, n - kept + 1).values
    above = flat > threshold
    tied = flat == threshold
    room = kept - above.sum()
    return (above | (tied & (tied.cumsum(0) <= room))).reshape(scores.shape)
