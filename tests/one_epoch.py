"""One epoch of the batches that a source gives without end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from timm_jackpot.data import Batch, ImageSource, steps_per_epoch
from timm_jackpot.runtime.processes import Shard

ONE = Shard()


def one_epoch(
    source: ImageSource, *, seed: int, epoch: int = 0, batch_size: int, shard: Shard = ONE, first: int = 0
) -> Iterator[Batch]:
    """Its batches from the `first` on."""
    count = steps_per_epoch(len(source), batch_size, shard)
    batches = source.train_batches(seed=seed, batch_size=batch_size, shard=shard, first=epoch * count + first)
    return islice(batches, count - first)
