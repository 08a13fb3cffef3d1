"""Larger images: a plain DataLoader over a timm data set, decoded in worker processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from timm_jackpot.data.source import Batch, eval_order, sample_hash, train_order
from timm_jackpot.processes import Shard


@dataclass(frozen=True)
class LoaderImages:
    """A split read through worker processes. `dataset[i]` is (PIL image, label)."""

    dataset: Any
    indices: Tensor  # [n] positions in `dataset`: a part of it, or all
    train_transform: Callable[[Any], Tensor]
    eval_transform: Callable[[Any], Tensor]
    workers: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)

    def train_batches(self, *, seed: int, epoch: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        order = train_order(len(self), seed=seed, epoch=epoch, batch_size=batch_size, shard=shard, first=first)
        seeds = sample_hash(seed, epoch, self.indices) % (1 << 32)
        yield from self._read(_Transformed(self.dataset, self.indices, self.train_transform, seeds), list(order))

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        order = eval_order(len(self), batch_size=batch_size, shard=shard)
        yield from self._read(_Transformed(self.dataset, self.indices, self.eval_transform, None), list(order))

    def _read(self, dataset: _Transformed, batches: Sequence[Tensor]) -> Iterator[Batch]:
        pin = self.device.type == "cuda"
        loader = DataLoader(
            dataset,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=min(self.workers, len(batches)),
            pin_memory=pin,
        )
        for images, labels in loader:
            yield Batch(images.to(self.device, non_blocking=pin), labels.to(self.device, non_blocking=pin))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed every generator that a transform may draw from, and put all of them back."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


class _Transformed(Dataset[tuple[Tensor, int]]):
    """Applies a transform whose random draws depend on the sample alone, whichever worker reads it."""

    def __init__(self, dataset: Any, indices: Tensor, transform: Callable[[Any], Tensor], seeds: Tensor | None) -> None:
        self.dataset, self.indices, self.transform, self.seeds = dataset, indices, transform, seeds

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        image, label = self.dataset[int(self.indices[position])]
        if self.seeds is None:
            return self.transform(image), int(label)
        with _seeded(int(self.seeds[position])):
            return self.transform(image), int(label)

    def __len__(self) -> int:
        return len(self.indices)
