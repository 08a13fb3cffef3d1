"""The interface of an image source, and the order of training and evaluation batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from timm_jackpot.errors import DataError
from timm_jackpot.runtime.processes import Shard


class Batch(NamedTuple):
    images: Tensor  # [b, c, h, w] float32, normalized
    labels: Tensor  # [b] int64


class Unreadable:
    """Images that could not be read: left out and counted or, with `strict`, an error."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.names: set[str] = set()

    def note(self, name: str, reason: str) -> None:
        """Raises: DataError: if `strict`."""
        if self.strict:
            raise DataError(f"image {name} cannot be read ({reason}): repair or remove it, or leave --strict out")
        self.names.add(name)


class ImageSource(Protocol):
    """A split of a dataset, on a device."""

    def __len__(self) -> int: ...

    def train_batches(self, *, seed: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        """Full, augmented batches, epoch after epoch without end, from batch `first` on; they depend only on the seed.

        There must be enough images for one full batch.
        """
        ...

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        """Every image once over all shards, in the dataset's order, without augmentation."""
        ...


def steps_per_epoch(n: int, batch_size: int, shard: Shard) -> int:
    return n // (batch_size * shard.count)


def part_positions(labels: Tensor, part: str | None) -> Tensor:
    """Sorted positions of part k/n of a split: class by class, every n-th image from the k-th on; all for None.

    The n parts are disjoint and cover everything. All have the same number of images of each class, within one.

    Args:
        labels: [number of images] int64.
    """
    first, count = (1, 1) if part is None else map(int, part.split("/"))
    return labels.argsort(stable=True)[first - 1 :: count].sort().values


def train_order(
    n: int, *, seed: int, batch_size: int, shard: Shard, first: int = 0, labels: Tensor | None = None
) -> Iterator[tuple[int, Tensor]]:
    """The epoch and the indices of each batch, as in `epoch_order`, epoch after epoch without end."""
    started, done = divmod(first, steps_per_epoch(n, batch_size, shard))
    for epoch in itertools.count(started):
        order = epoch_order(n, seed=seed, epoch=epoch, batch_size=batch_size, shard=shard, first=done, labels=labels)
        yield from ((epoch, indices) for indices in order)
        done = 0


def epoch_order(
    n: int,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    shard: Shard,
    first: int = 0,
    labels: Tensor | None = None,
) -> Iterator[Tensor]:
    """Index batches of one epoch, from batch `first` on; N shards of b images read the same as one shard of N·b.

    Args:
        labels: [n] int64, ≥ 0: spreads each class evenly over the batches. Within a batch the order is random, so that
            the position does not reveal the class: Mixup, for example, pairs images by position.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(n, generator=generator)
    stride = batch_size * shard.count
    if labels is not None:
        order = _spread(order, labels, generator)
        batches = order[: n - n % stride].view(-1, stride)
        order = batches.gather(1, torch.rand(batches.shape, generator=generator).argsort(1)).flatten()
    for start in range(first * stride, n - stride + 1, stride):
        low = start + shard.rank * batch_size
        yield order[low : low + batch_size]


def _spread(order: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Reorder the samples: sample i of m in a class goes to (i + u) / m of the epoch, u ∈ [0, 1) drawn per class."""
    grouped = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    classes = labels[grouped]
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[classes]
    offsets = torch.rand(len(sizes), generator=generator, dtype=torch.float64)
    place = (rank + offsets[classes]) / sizes[classes]
    return grouped[place.argsort(stable=True)]


def eval_order(n: int, *, batch_size: int, shard: Shard) -> Iterator[Tensor]:
    mine = torch.arange(n)[shard.rank :: shard.count]
    yield from mine.split(batch_size) if len(mine) else ()


def sample_hash(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """One pseudo-random 62-bit integer per sample, a pure function of (seed, epoch, sample index).

    splitmix64's finalizer on int64 tensors (arithmetic wraps around; the masks make the shifts logical).
    """
    start = (seed * 0x1E3779B97F4A7C15 + epoch * 0x3F58476D1CE4E5B9 + 0x632BE59BD9B4E019) % (1 << 63)
    x = indices.to(torch.int64) * 0x1E3779B97F4A7C15 + start
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15
    return (x ^ ((x >> 31) & ((1 << 33) - 1))) & ((1 << 62) - 1)
