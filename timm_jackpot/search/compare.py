"""What a jackpot is measured beside, on the test split."""

from __future__ import annotations

import itertools
from copy import deepcopy
from dataclasses import dataclass

from accelerate import Accelerator
from torch import nn

from timm_jackpot.adapter import merge
from timm_jackpot.base import Maskable
from timm_jackpot.data import Data, steps_per_epoch
from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.masks import MaskSet
from timm_jackpot.processes import shard_of
from timm_jackpot.progress import with_progress
from timm_jackpot.search.config import SearchConfig
from timm_jackpot.search.start import start_of
from timm_jackpot.training import reestimate_norm_statistics

CALIBRATION_IMAGES, _CALIBRATION_SEED = 10_000, 2021


@dataclass(frozen=True)
class Comparison:
    """Top-1 on the test split, one figure per model; None where a new head leaves nothing to compare."""

    jackpot: Accuracy
    dense: Accuracy | None
    magnitude: Accuracy | None
    magnitude_recalibrated: Accuracy | None


def compare(
    model: nn.Module,
    dense: nn.Module,
    masks: MaskSet,
    maskable: Maskable,
    data: Data,
    config: SearchConfig,
    accelerator: Accelerator,
    *,
    new_head: bool,
) -> Comparison:
    """Read the test split, once, for the jackpot and what it is to be compared with.

    Args:
        model: as the search left it, its masked weights untouched.
        dense: the base as it came.
    """

    def accuracy(candidate: nn.Module) -> Accuracy:
        return evaluate_accuracy(candidate, data.test, batch_size=config.batch_size, accelerator=accelerator)

    jackpot = accuracy(merge(deepcopy(model), masks))
    if new_head:
        return Comparison(jackpot, None, None, None)
    by_magnitude = config.model_copy(update={"criterion": "magnitude"})
    one_shot = merge(deepcopy(dense), start_of(by_magnitude, maskable, dense, data, accelerator).masks)
    magnitude = accuracy(one_shot)
    calibrate(one_shot, data, config.batch_size, accelerator, images=CALIBRATION_IMAGES)
    return Comparison(jackpot, accuracy(dense), magnitude, accuracy(one_shot))


def calibrate(model: nn.Module, data: Data, batch_size: int, accelerator: Accelerator, *, images: int) -> None:
    """Re-estimate norm statistics on up to `images` training images, in the order of a training epoch of its own."""
    shard = shard_of(accelerator)
    count = max(1, images // (batch_size * shard.count))
    batches = data.train.train_batches(seed=_CALIBRATION_SEED, epoch=0, batch_size=batch_size, shard=shard)
    count = min(count, steps_per_epoch(len(data.train), batch_size, shard))
    some = with_progress(itertools.islice(batches, count), count, "norm statistics", accelerator)
    reestimate_norm_statistics(model, (batch.images for batch in some), accelerator)
