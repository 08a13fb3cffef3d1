from __future__ import annotations

from math import ceil
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from timm_jackpot.data import ImageSource
from timm_jackpot.errors import DataError
from timm_jackpot.runtime.processes import Shard, shard_of
from timm_jackpot.runtime.progress import with_progress

NONE_READABLE = "none of the images to evaluate on can be read: look at --data-dir, or name another --test-split"


class Accuracy(NamedTuple):
    """Per cent of `n` images whose label is the first, or among the first five, of the model's answers."""

    top1: float
    top5: float
    n: int


@torch.inference_mode()
def evaluate_accuracy(model: nn.Module, source: ImageSource, *, batch_size: int, accelerator: Accelerator) -> Accuracy:
    """Accuracy of `model` in eval mode on a whole split, as far as it can be read; same result on every rank.

    The mode is restored.

    Raises:
        DataError: if none of the images can be read.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    hits = torch.zeros(3, dtype=torch.int64, device=accelerator.device)
    shard = shard_of(accelerator)
    batches = source.eval_batches(batch_size=batch_size, shard=shard)
    for images, labels in with_progress(batches, batches_of(source, batch_size, shard), "evaluation", accelerator):
        with accelerator.autocast():
            logits = model(images)
        order = logits.topk(min(5, logits.shape[1]), dim=1).indices
        found = order == labels[:, None]
        hits += torch.stack([found[:, 0].sum(), found.any(1).sum(), torch.tensor(len(labels)).to(hits)])
    for module, training in modes:
        module.training = training
    top1, top5, n = accelerator.reduce(hits, reduction="sum").tolist()  # pyright: ignore
    if n == 0:
        raise DataError(NONE_READABLE)
    assert n <= len(source), (n, len(source))  # fewer only where images could not be read
    return Accuracy(100 * top1 / n, 100 * top5 / n, n)


def batches_of(source: ImageSource, batch_size: int, shard: Shard) -> int:
    """How many batches of its split a process sees, if all images can be read."""
    return ceil(len(source) / (batch_size * shard.count))
