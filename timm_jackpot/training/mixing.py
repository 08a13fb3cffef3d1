"""timm's Mixup and CutMix, with draws that depend only on the seed and the batch number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from timm.data.mixup import Mixup

from timm_jackpot.data import Batch
from timm_jackpot.errors import ConfigError
from timm_jackpot.training.flags import OptimFlags

Mixer = Callable[[int, Batch], Batch]


def make_mixer(flags: OptimFlags, num_classes: int, batch_size: int, seed: int) -> Mixer | None:
    """A function that mixes a batch, given its number; labels become probabilities [b, classes]. None if both are off.

    Raises:
        ConfigError: if the batch size is odd, which timm does not support.
    """
    if not (flags.mixup or flags.cutmix):
        return None
    if batch_size % 2:
        raise ConfigError(f"--mixup and --cutmix need an even --batch-size, not {batch_size}")
    # The objective does label smoothing.
    timm_mixup = Mixup(flags.mixup, flags.cutmix, label_smoothing=0.0, num_classes=num_classes)

    def mix(number: int, batch: Batch) -> Batch:
        state = np.random.get_state()
        np.random.seed((seed * 1_000_003 + number) % 2**32)
        try:
            return Batch(*timm_mixup(batch.images, batch.labels))
        finally:
            np.random.set_state(state)

    return mix
