"""Running means and variances: average them over ranks, or re-estimate them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from timm_jackpot.base import norm_layers
from timm_jackpot.data import Data, steps_per_epoch
from timm_jackpot.runtime.processes import shard_of
from timm_jackpot.runtime.progress import with_progress
from timm_jackpot.training.faults import one_image_explained

CALIBRATION_IMAGES, _CALIBRATION_SEED = 10_000, 2021


@torch.no_grad()
def average_norm_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace running statistics by their mean over all ranks; DDP alone would keep those of rank 0."""
    if accelerator.num_processes == 1:
        return
    for _, layer in norm_layers(model):
        for statistic in (layer.running_mean, layer.running_var):
            assert isinstance(statistic, Tensor)
            statistic.copy_(accelerator.reduce(statistic, reduction="mean"))  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def reestimate_norm_statistics(model: nn.Module, batches: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Replace running statistics by their plain average over `batches` of images.

    Does nothing if the model has no running statistics. Training modes and momenta are restored.

    Raises:
        TrainingError: if batches are too small for batch norm.
    """
    layers = [layer for _, layer in norm_layers(model) if isinstance(layer, _NormBase)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    for images in batches:
        with accelerator.autocast(), one_image_explained():
            model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for module, training in modes:
        module.training = training
    average_norm_statistics(model, accelerator)


def recalibrate(model: nn.Module, data: Data, batch_size: int, accelerator: Accelerator, *, images: int) -> None:
    """Re-estimate norm statistics on up to `images` training images, in an order with its own seed."""
    shard = shard_of(accelerator)
    count = max(1, images // (batch_size * shard.count))
    batches = data.train.train_batches(seed=_CALIBRATION_SEED, batch_size=batch_size, shard=shard)
    count = min(count, steps_per_epoch(len(data.train), batch_size, shard))
    some = with_progress(itertools.islice(batches, count), count, "norm statistics", accelerator)
    reestimate_norm_statistics(model, (batch.images for batch in some), accelerator)
