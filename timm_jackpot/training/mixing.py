"""Mixup and CutMix, timm's, drawn from the run's seed and the step alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from timm.data.mixup import Mixup

from timm_jackpot.data import Batch
from timm_jackpot.errors import ConfigError
from timm_jackpot.training.flags import OptimFlags

Mixer = Callable[[int, Batch], Batch]


def make_mixer(flags: OptimFlags, num_classes: int, batch_size: int, seed: int) -> Mixer | None:
    """(batch number, batch) → the batch mixed with itself, its labels probabilities [b, classes]; None without both.

    Raises:
        ConfigError: for an odd batch size, which timm cannot mix.
    """
    if not (flags.mixup or flags.cutmix):
        return None
    if batch_size % 2:
        raise ConfigError(f"--mixup and --cutmix need an even --batch-size, not {batch_size}")
    # Label smoothing is the objective's.
    timm_mixup = Mixup(flags.mixup, flags.cutmix, label_smoothing=0.0, num_classes=num_classes)

    def mix(number: int, batch: Batch) -> Batch:
        state = np.random.get_state()
        np.random.seed((seed * 1_000_003 + number) % 2**32)
        try:
            return Batch(*timm_mixup(batch.images, batch.labels))
        finally:
            np.random.set_state(state)

    return mix
