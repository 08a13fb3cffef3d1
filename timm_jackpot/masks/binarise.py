"""Scores → mask, with exact counts and deterministic ties (Eq. 5 of Lottery Jackpots)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_IN_CACHE = 1 << 17  # scores that are compared twice while they are at hand


def keep_largest(scores: Tensor, kept: int) -> Tensor:
    """Boolean mask of exactly `kept` largest scores; of equal ones the first in C order is kept.

    h(s)_i = 1 where s_i is among the `kept` largest of s, else 0. One selection, no sort; on an accelerator no
    synchronisation with the host either.

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
    flat = scores.detach().reshape(-1)  # logical order, whatever the memory format
    if flat.dtype in (torch.bfloat16, torch.float16):
        flat = flat.float()  # exact, and in the same order
    if flat.device.type == "cpu":
        return torch.from_numpy(_select(flat.numpy(), kept).mask).reshape(scores.shape)
    threshold = torch.kthvalue(flat, n - kept + 1).values
    above = flat > threshold
    tied = flat == threshold
    room = kept - above.sum()
    return (above | (tied & (tied.cumsum(0) <= room))).reshape(scores.shape)


def keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Boolean mask of the `n` largest scores of every `m` consecutive ones along dim 1 (N:M sparsity).

    The input channels of a conv or linear weight; of equal scores the first is kept.

    Args:
        scores: real tensor [o, i, …], i divisible by m, without NaN.

    Returns:
        A contiguous boolean tensor of the same shape.
    """
    assert 0 < n < m, (n, m)
    assert scores.dim() > 1, scores.shape
    assert scores.shape[1] % m == 0, (scores.shape, m)
    groups = scores.detach().movedim(1, -1).unflatten(-1, (-1, m))
    largest = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=scores.device).scatter_(-1, largest, value=True)
    return mask.flatten(-2).movedim(-1, 1).contiguous()


def is_n_of_m(mask: Tensor, n: int, m: int) -> bool:
    """Whether a mask keeps exactly `n` of every `m` consecutive weights along dim 1."""
    if mask.dim() < 2 or mask.shape[1] % m:
        return False
    return bool((mask.movedim(1, -1).unflatten(-1, (-1, m)).sum(-1) == n).all())


class LargestKept:
    """`keep_largest` for scores that move little from call to call: the same masks, sooner on a CPU.

    The new threshold is looked for in a band around the last one, four times as far to either side as that one had
    moved. Counts tell when it lies elsewhere, and everything is selected from then.
    """

    def __init__(self) -> None:
        self._threshold, self._move = -np.inf, np.inf

    def __call__(self, scores: Tensor, kept: int) -> Tensor:
        """As `keep_largest`."""
        n = scores.numel()
        if scores.device.type != "cpu" or scores.dtype != torch.float32 or not 0 < kept < n:
            return keep_largest(scores, kept)
        flat = scores.detach().reshape(-1).numpy()
        found = self._near_the_last(flat, kept) or _select(flat, kept)
        self._move, self._threshold = abs(found.threshold - self._threshold), found.threshold
        return torch.from_numpy(found.mask).reshape(scores.shape)

    def _near_the_last(self, flat: np.ndarray, kept: int) -> _Selection | None:
        low, high = self._threshold - 4 * self._move, self._threshold + 4 * self._move
        if not max(abs(low), abs(high)) < np.finfo(np.float32).max:
            return None
        low, high = np.float32(low), np.float32(high)
        mask, in_band = np.empty(flat.size, np.bool_), []
        for first in range(0, flat.size, _IN_CACHE):
            part, above = flat[first : first + _IN_CACHE], mask[first : first + _IN_CACHE]
            np.greater(part, high, out=above)
            in_band.append(np.flatnonzero((part >= low) ^ above) + first)
        room, at = kept - np.count_nonzero(mask), np.concatenate(in_band)
        if not 0 < room <= at.size:
            return None
        found = _select(flat[at], room)
        mask[at] = found.mask
        return _Selection(mask, found.threshold)


class _Selection(NamedTuple):
    mask: np.ndarray
    threshold: float


def _select(flat: np.ndarray, kept: int) -> _Selection:
    """On CPUs numpy's selection takes a seventh of the time of torch's kthvalue."""
    cut = flat.size - kept
    threshold = np.partition(flat, cut)[cut]
    mask = flat > threshold
    room = kept - np.count_nonzero(mask)
    mask[np.flatnonzero(flat == threshold)[:room]] = True
    return _Selection(mask, float(threshold))
