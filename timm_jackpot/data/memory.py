"""Small images: the whole split as one uint8 tensor on the device, augmented in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from timm_jackpot.data.source import Batch, eval_order, sample_hash, train_order
from timm_jackpot.runtime.processes import Shard


@dataclass(frozen=True)
class MemoryImages:
    """A split held in memory: no worker processes, no decoding after the first read."""

    images: Tensor  # [n, c, h, w] uint8
    labels: Tensor  # [n] int64
    mean: Sequence[float]
    std: Sequence[float]
    hflip: float
    crop_padding: int
    stratified: bool = False  # spread each class evenly over the batches of an epoch

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(self, *, seed: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        padded = F.pad(self.images, (self.crop_padding,) * 4)
        labels = self.labels.cpu() if self.stratified else None
        order = train_order(len(self), seed=seed, batch_size=batch_size, shard=shard, first=first, labels=labels)
        for epoch, indices in order:
            draws = sample_hash(seed, epoch, indices).to(self.images.device)
            indices = indices.to(self.images.device)
            images = self._crop_and_flip(padded, indices, draws)
            yield Batch(self._normalize(images), self.labels[indices])

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        for indices in eval_order(len(self), batch_size=batch_size, shard=shard):
            indices = indices.to(self.images.device)
            yield Batch(self._normalize(self.images[indices]), self.labels[indices])

    def select(self, indices: Tensor) -> MemoryImages:
        """The same split with only these samples."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def _crop_and_flip(self, padded: Tensor, indices: Tensor, draws: Tensor) -> Tensor:
        height, width = self.images.shape[-2:]
        offsets = 2 * self.crop_padding + 1
        top, left = draws % offsets, (draws >> 12) % offsets
        flip = ((draws >> 24) & 0xFFFF) < round(self.hflip * 0x10000)
        rows = top[:, None] + torch.arange(height, device=draws.device)
        columns = torch.arange(width, device=draws.device).expand(len(draws), width)
        columns = left[:, None] + torch.where(flip[:, None], columns.flip(1), columns)
        # One gather for all images: [b, h, w, c], viewed as [b, c, h, w] with channels_last strides.
        gathered = padded.permute(0, 2, 3, 1)[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        return gathered.permute(0, 3, 1, 2)

    def _normalize(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=images.device).mul(255).view(1, -1, 1, 1)
        scale = torch.tensor(self.std, device=images.device).mul(255).reciprocal().view(1, -1, 1, 1)
        return images.float().sub_(mean).mul_(scale).contiguous()
