"""Larger images: a plain DataLoader over a timm dataset, decoded in worker processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from timm_jackpot.data.read import UnreadableImage, image_name, read_image
from timm_jackpot.data.source import Batch, Unreadable, eval_order, sample_hash, train_order
from timm_jackpot.errors import DataError
from timm_jackpot.runtime.processes import Shard


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

    def train_batches(self, *, seed: int, epoch: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        order = train_order(len(self), seed=seed, epoch=epoch, batch_size=batch_size, shard=shard, first=first)
        seeds = sample_hash(seed, epoch, self.indices) % (1 << 32)
        yield from self._read(self._transformed(self.train_transform, seeds), list(order), every_batch=True)

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        order = eval_order(len(self), batch_size=batch_size, shard=shard)
        yield from self._read(self._transformed(self.eval_transform, None), list(order))

    def _transformed(self, transform: Callable[[Any], Tensor], seeds: Tensor | None) -> _Transformed:
        return _Transformed(self.dataset, self.indices, transform, self.eval_transform, seeds, self.mode)

    def _read(self, dataset: _Transformed, batches: Sequence[Tensor], *, every_batch: bool = False) -> Iterator[Batch]:
        pin = self.device.type == "cuda"
        loader = DataLoader(
            dataset,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=min(self.workers, len(batches)),
            pin_memory=pin,
            generator=torch.Generator(),  # otherwise it would draw from the generator that dropout uses, once per epoch
        )
        for images, labels in loader:
            readable = labels >= 0
            for position in (-1 - labels[~readable]).tolist():
                index = int(self.indices[position])
                self.unreadable.note(image_name(self.dataset, index), "damaged or gone")
            if every_batch and not readable.any():
                images, labels = self._replacements(dataset, (-1 - labels).tolist())
            elif not readable.all():
                images, labels = images[readable], labels[readable]
            if len(labels):
                yield Batch(images.to(self.device, non_blocking=pin), labels.to(self.device, non_blocking=pin))

    def _replacements(self, dataset: _Transformed, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Readable images from later positions, so that all processes and resumed runs count the same batches."""
        last, n = positions[-1], len(self)
        read = (dataset[(last + offset) % n] for offset in range(1, n))
        found = list(islice((pair for pair in read if pair[1] >= 0), len(positions)))
        if not found:
            raise DataError(f"none of the {n} training images can be read")
        return torch.stack([image for image, _ in found]), torch.tensor([label for _, label in found])


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
        seeds: Tensor | None,
        mode: str,
    ) -> None:
        self.dataset, self.indices, self.transform, self.seeds = dataset, indices, transform, seeds
        self.eval_transform, self.mode = eval_transform, mode

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        try:
            image, label = read_image(self.dataset, int(self.indices[position]))
            image = image if image.mode == self.mode else image.convert(self.mode)  # which copies in any case
        except UnreadableImage:
            blank = self.eval_transform(Image.new(self.mode, (256, 256)))
            return torch.zeros_like(blank), -1 - position
        if self.seeds is None:
            return self.transform(image), int(label)
        with _seeded(int(self.seeds[position])):
            return self.transform(image), int(label)

    def __len__(self) -> int:
        return len(self.indices)
