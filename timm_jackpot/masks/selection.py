"""Scores → mask, with exact counts and deterministic ties (Eq. 5 of Lottery Jackpots); scores → threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

_INFINITY = 0x7F800000  # its bits as a float32 number


def keep_largest(scores: Tensor, kept: int) -> Tensor:
    """Boolean mask of exactly the `kept` largest scores; ties keep the first in C order.

    h(s)_i = 1 where s_i is among the `kept` largest of s, else 0. The selection always runs on the CPU.

    Args:
        scores: real tensor of any shape and memory format, without NaN.
        kept: how many elements to keep, 0 ≤ kept ≤ n.

    Returns:
        A contiguous boolean tensor of the same shape, on the same device.
    """
    n = scores.numel()
    assert 0 <= kept <= n, (kept, n)
    if kept in (0, n):
        return torch.full(scores.shape, kept == n, dtype=torch.bool, device=scores.device)
    flat = _flat(scores).cpu().numpy()
    last = np.partition(flat, n - kept)[n - kept]
    mask = flat > last
    room = kept - np.count_nonzero(mask)
    mask[np.flatnonzero(flat == last)[:room]] = True
    return torch.from_numpy(mask).reshape(scores.shape).to(scores.device)


def threshold_of(scores: Tensor, kept: int) -> Tensor:
    """τ such that exactly `kept` scores are ≥ τ, or more if the last one kept is tied.

    τ lies halfway between the last score kept and the best one removed, so that scores that start on two levels do not
    cross it in the first step. On an accelerator, nothing waits for the host.

    Args:
        scores: real tensor of any shape and memory format.
        kept: how many elements should reach τ, 0 ≤ kept ≤ n.

    Returns:
        A one-element tensor on the scores' device.
    """
    n = scores.numel()
    assert 0 <= kept <= n, (kept, n)
    if kept in (0, n):
        return torch.full((), -torch.inf if kept == n else torch.inf, device=scores.device)
    flat = _flat(scores)
    if flat.device.type == "cpu":  # numpy's selection is thirty times as fast as torch's
        ordered = np.partition(flat.numpy(), n - kept)
        removed, last = torch.as_tensor(ordered[: n - kept].max()), torch.as_tensor(ordered[n - kept])
    else:
        removed, last = flat.sort().values[n - kept - 1 : n - kept + 1]
    return _between(removed.to(scores.dtype), last.to(scores.dtype))


def thresholds_of_shards(shards: Sequence[Tensor], kept: Sequence[int], sizes: Sequence[int]) -> list[Tensor]:
    """`threshold_of`, bit for bit, for tensors of which each process of the process group holds a part.

    The last score kept is found by bisection over all float32 numbers: only counts travel, and in the end the best
    score removed. Nothing waits for the host.

    Args:
        shards: this process's part of each tensor, float32; it may be empty.
        kept, sizes: how many elements of each whole tensor should reach τ, and how many it has.

    Returns:
        A one-element tensor for each.
    """
    device = shards[0].device
    wanted = torch.tensor(kept, device=device)
    low, high = torch.full_like(wanted, -_INFINITY - 1), torch.full_like(wanted, _INFINITY)

    def reaching(values: Tensor) -> Tensor:
        counts = torch.stack([(part >= value).sum() for part, value in zip(shards, values, strict=True)])
        torch.distributed.all_reduce(counts)
        return counts

    for _ in range(32):
        middle = (low + high + 1).div(2, rounding_mode="floor")
        enough = reaching(_floats(middle)) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle - 1)
    last = _floats(low)
    none = torch.full((1,), -torch.inf, device=device)  # for an empty part
    below = [torch.where(part < value, part, none).flatten() for part, value in zip(shards, last, strict=True)]
    removed = torch.stack([torch.cat((part, none)).amax() for part in below])
    torch.distributed.all_reduce(removed, torch.distributed.ReduceOp.MAX)
    found = torch.where(reaching(last) > wanted, last, _between(removed, last))
    found = torch.where(wanted == torch.tensor(sizes, device=device), -torch.inf, found)
    return list(torch.where(wanted == 0, torch.inf, found))


def keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Boolean mask of the `n` largest of every `m` consecutive scores along dim 1 (N:M sparsity).

    Dim 1 is the input channels of a conv or linear weight. Ties keep the first.

    Args:
        scores: real tensor [o, i, …], i divisible by m, without NaN.

    Returns:
        A contiguous boolean tensor of the same shape.
    """
    groups = _groups(scores, n, m)
    largest = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=scores.device).scatter_(-1, largest, value=True)
    return _ungrouped(mask).contiguous()


def group_thresholds(scores: Tensor, n: int, m: int) -> Tensor:
    """For every score, the threshold of its group: `m` consecutive scores along dim 1, of which `n` are kept.

    Args:
        scores: as in `keep_n_of_m`.

    Returns:
        A tensor of the same shape.
    """
    groups = _groups(scores, n, m)
    ordered = groups.sort(dim=-1).values
    return _ungrouped(_between(ordered[..., m - n - 1, None], ordered[..., m - n, None]).expand(groups.shape))


def filter_sums(scores: Mapping[str, Tensor], groups: Iterable[Sequence[str]]) -> dict[str, Tensor]:
    """For every score, the sum over its filter, the weights of one entry along dim 0, in all layers of its group.

    The weights with the largest sums are whole filters, the same ones in each layer of a group.

    Args:
        scores: [F, …] by layer, with the same F within a group.
        groups: names of layers; each layer is in one group.

    Returns:
        Tensors of the same shapes, float32, in the order of `scores`.
    """
    sums: dict[str, Tensor] = {}
    for group in groups:
        sums |= dict.fromkeys(group, torch.stack([scores[name].double().flatten(1).sum(1) for name in group]).sum(0))
    return {
        name: sums[name].float().view(-1, *[1] * (values.dim() - 1)).expand(values.shape)
        for name, values in scores.items()
    }


def keeps_filters(mask: Tensor) -> bool:
    """Whether a mask keeps or removes each filter as a whole."""
    rows = mask.flatten(1)
    return bool((rows.any(1) == rows.all(1)).all())


def is_n_of_m(mask: Tensor, n: int, m: int) -> bool:
    """Whether a mask keeps exactly `n` of every `m` consecutive weights along dim 1."""
    if mask.dim() < 2 or mask.shape[1] % m:
        return False
    return bool((mask.movedim(1, -1).unflatten(-1, (-1, m)).sum(-1) == n).all())


def _flat(scores: Tensor) -> Tensor:
    """The scores in logical order, whatever the memory format, in a dtype that numpy has; values are exact."""
    flat = scores.detach().reshape(-1)
    return flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat


def _floats(places: Tensor) -> Tensor:
    """The float32 numbers at these places in the order of all of them; 0 is at 0."""
    bits = places.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _between(low: Tensor, high: Tensor) -> Tensor:
    """low < τ ≤ high, about halfway; high where the two are equal or adjacent."""
    halfway = torch.minimum(low / 2 + high / 2, high)  # halved first, because the sum may overflow
    return torch.where(halfway > low, halfway, high)


def _groups(scores: Tensor, n: int, m: int) -> Tensor:
    assert 0 < n < m, (n, m)
    assert scores.dim() > 1, scores.shape
    assert scores.shape[1] % m == 0, (scores.shape, m)
    return scores.detach().movedim(1, -1).unflatten(-1, (-1, m))


def _ungrouped(groups: Tensor) -> Tensor:
    return groups.flatten(-2).movedim(-1, 1)
