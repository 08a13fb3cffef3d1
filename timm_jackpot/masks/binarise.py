"""Scores → mask, with exact counts and deterministic ties (Eq. 5 of Lottery Jackpots)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
        return torch.from_numpy(_keep_largest_numpy(flat.numpy(), kept)).reshape(scores.shape)
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


def _keep_largest_numpy(flat: np.ndarray, kept: int) -> np.ndarray:
    """On CPUs numpy's selection takes a seventh of the time of torch's kthvalue."""
    cut = flat.size - kept
    threshold = np.partition(flat, cut)[cut]
    mask = flat > threshold
    room = kept - np.count_nonzero(mask)
    mask[np.flatnonzero(flat == threshold)[:room]] = True
    return mask
