"""Scores → mask, with exact counts and deterministic ties (Eq. 5 of Lottery Jackpots)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_IN_CACHE = 1 << 18  # scores that are compared twice while they are at hand


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
    threshold = _threshold(flat, kept)
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
    """What `keep_largest` changes in a mask on a CPU, found sooner for scores that move little from call to call.

    The new threshold is looked for in a band around the last one, twice as wide to either side as moves have lately
    been long. Counts tell when it lies elsewhere, and everything is selected from then.
    """

    def __init__(self) -> None:
        self._threshold, self._move = -np.inf, np.inf

    def flips(self, mask: Tensor, scores: Tensor, kept: int) -> Tensor:
        """Where `keep_largest(scores, kept)` differs from `mask`, a boolean tensor of the same shape.

        Not for scores with NaN, as that is not.

        Returns:
            int64 [flips], indices into the flattened tensors.
        """
        held = mask.reshape(-1).numpy()
        if scores.dtype != torch.float32 or not 0 < kept < scores.numel():
            return torch.from_numpy(np.flatnonzero(keep_largest(scores, kept).reshape(-1).numpy() ^ held))
        flat = scores.detach().reshape(-1).numpy()
        found = self._near_the_last(held, flat, kept)
        if found is None:
            selection = _select(flat, kept)
            found = _Flips(np.flatnonzero(selection.mask ^ held), selection.threshold)
        move = abs(found.threshold - self._threshold)
        self._move = max(move, 0.9 * self._move) if np.isfinite(self._move) else move
        self._threshold = found.threshold
        return torch.from_numpy(found.at)

    def _near_the_last(self, held: np.ndarray, flat: np.ndarray, kept: int) -> _Flips | None:
        low, high = self._threshold - 2 * self._move, self._threshold + 2 * self._move
        if not max(abs(low), abs(high)) < float(np.finfo(np.float32).max):
            return None
        low, high = np.float32(low), np.float32(high)
        unsettled = []
        for first in range(0, flat.size, _IN_CACHE):
            part, before = flat[first : first + _IN_CACHE], held[first : first + _IN_CACHE]
            found = (part >= low) ^ before  # not held and not below the band, or held and below it
            found |= (part <= high) & before
            unsettled.append(np.flatnonzero(found) + first)
        at = np.concatenate(unsettled)
        part, before = flat[at], held[at]
        above = part > high
        band = (part >= low) ^ above
        room = kept - (np.count_nonzero(held) - np.count_nonzero(before)) - np.count_nonzero(above)
        if not 0 < room <= np.count_nonzero(band):
            return None
        selection = _select(part[band], room)
        above[band] = selection.mask
        return _Flips(at[above ^ before], selection.threshold)


class _Flips(NamedTuple):
    at: np.ndarray
    threshold: float


def _threshold(flat: Tensor, kept: int) -> Tensor:
    """The `kept`-th largest element, on an accelerator: torch's topk selects with all of it, kthvalue with one block
    (slower there than a sort)."""
    below = flat.numel() - kept
    if kept <= below:
        return flat.topk(kept, sorted=False).values.amin()
    return flat.topk(below + 1, largest=False, sorted=False).values.amax()


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
