"""Larger images: a plain DataLoader over a timm dataset, decoded in worker processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from timm_jackpot.data.read import UnreadableImage, image_name, read_image
from timm_jackpot.data.source import Batch, Unreadable, eval_order, sample_hash, steps_per_epoch, train_order
from timm_jackpot.errors import DataError
from timm_jackpot.runtime.processes import Shard

_Sample: TypeAlias = tuple[int, int | None]  # position in a split, and the seed of its augmentation, if any


@dataclass(frozen=True)
class LoaderImages:
    """A split read through worker processes. `dataset[i]` is (PIL image, label)."""

    dataset: Any
    indices: Tensor  # [n] positions in `dataset`, all or some
    train_transform: Callable[[Any], Tensor]
    eval_transform: Callable[[Any], Tensor]
    workers: int
    device: torch.device
    mode: str = "RGB"  # PIL's: "L" for models of one channel
    unreadable: Unreadable = field(default_factory=Unreadable)

    def __len__(self) -> int:
        return len(self.indices)

    def train_batches(self, *, seed: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        def samples(epoch: int, positions: Tensor) -> list[_Sample]:
            seeds = sample_hash(seed, epoch, self.indices[positions]) % (1 << 32)
            return list(zip(positions.tolist(), seeds.tolist(), strict=True))

        dataset, n = self._transformed(self.train_transform), len(self)
        per_epoch = steps_per_epoch(n, batch_size, shard)
        # One loader for all epochs: its workers stay, and read on into the next epoch.
        order = train_order(n, seed=seed, batch_size=batch_size, shard=shard, first=first)
        read = self._read(dataset, (samples(*batch) for batch in order), workers=min(self.workers, per_epoch))
        for number, (batch, missing) in enumerate(read, first):
            if not len(batch.labels):
                # Readable images from later positions, so that all processes and resumed runs count the same batches.
                later = torch.tensor([(missing[-1] + offset) % n for offset in range(1, n)], dtype=torch.int64)
                batch = self._readable(dataset, samples(number // per_epoch, later), len(missing))
            yield batch

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        order = list(eval_order(len(self), batch_size=batch_size, shard=shard))
        batches: list[list[_Sample]] = [[(position, None) for position in positions.tolist()] for positions in order]
        read = self._read(self._transformed(self.eval_transform), batches, workers=min(self.workers, len(batches)))
        yield from (batch for batch, _ in read if len(batch.labels))

    def _transformed(self, transform: Callable[[Any], Tensor]) -> _Transformed:
        return _Transformed(self.dataset, self.indices, transform, self.eval_transform, self.mode)

    def _read(
        self, dataset: _Transformed, batches: Iterable[list[_Sample]], *, workers: int
    ) -> Iterator[tuple[Batch, list[int]]]:
        """The readable images of each batch, and the positions of the others."""
        pin = self.device.type == "cuda"
        loader = DataLoader(
            dataset,
            batch_sampler=batches,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            pin_memory=pin,
            generator=torch.Generator(),  # otherwise it would draw from the generator that dropout uses, once per epoch
        )
        for images, labels in loader:
            readable = labels >= 0
            missing = (-1 - labels[~readable]).tolist()
            for position in missing:
                self.unreadable.note(image_name(self.dataset, int(self.indices[position])), "damaged or gone")
            if missing:
                images, labels = images[readable], labels[readable]
            yield Batch(images.to(self.device, non_blocking=pin), labels.to(self.device, non_blocking=pin)), missing

    def _readable(self, dataset: _Transformed, samples: Sequence[_Sample], count: int) -> Batch:
        """The first `count` of some samples that can be read."""
        found = list(islice((pair for pair in map(dataset.__getitem__, samples) if pair[1] >= 0), count))
        if not found:
            raise DataError(f"none of the {len(self)} training images can be read")
        images, labels = torch.stack([image for image, _ in found]), torch.tensor([label for _, label in found])
        return Batch(images.to(self.device), labels.to(self.device))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that our transforms draw from (crops: Python's, flips: torch's), and restore them on exit."""
    python, tensors = random.getstate(), torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed, for all devices, takes a tenth of a decode
        random.seed(seed)
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(tensors)


class _Transformed(Dataset[tuple[Tensor, int]]):
    """Applies a transform whose random draws depend only on the sample, not on the worker.

    An unreadable image becomes zeros, with the label −1 − position.
    """

    def __init__(
        self,
        dataset: Any,
        indices: Tensor,
        transform: Callable[[Any], Tensor],
        eval_transform: Callable[[Any], Tensor],
        mode: str,
    ) -> None:
        self.dataset, self.indices, self.transform = dataset, indices, transform
        self.eval_transform, self.mode = eval_transform, mode

    def __getitem__(self, sample: _Sample) -> tuple[Tensor, int]:
        position, seed = sample
        try:
            image, label = read_image(self.dataset, int(self.indices[position]))
            image = image if image.mode == self.mode else image.convert(self.mode)  # which copies in any case
        except UnreadableImage:
            blank = self.eval_transform(Image.new(self.mode, (256, 256)))
            return torch.zeros_like(blank), -1 - position
        if seed is None:
            return self.transform(image), int(label)
        with _seeded(seed):
            return self.transform(image), int(label)

    def __len__(self) -> int:
        return len(self.indices)
