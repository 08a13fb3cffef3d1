from __future__ import annotations

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from timm_jackpot.data import ImageSource
from timm_jackpot.errors import DataError
from timm_jackpot.evaluation.loop import NONE_READABLE, logits_and_labels


class Accuracy(NamedTuple):
    """Percentage of `n` images whose label is the model's first prediction, or among its first five."""

    top1: float
    top5: float
    n: int


@torch.inference_mode()
def evaluate_accuracy(model: nn.Module, source: ImageSource, *, batch_size: int, accelerator: Accelerator) -> Accuracy:
    """Accuracy of `model` in eval mode on all readable images of a split; the same on every rank.

    The training mode is restored.

    Raises:
        DataError: if no image can be read.
    """
    hits = torch.zeros(3, dtype=torch.int64, device=accelerator.device)
    for logits, labels in logits_and_labels(model, source, batch_size, accelerator):
        order = logits.topk(min(5, logits.shape[1]), dim=1).indices
        found = order == labels[:, None]
        hits += torch.stack([found[:, 0].sum(), found.any(1).sum(), torch.tensor(len(labels)).to(hits)])
    top1, top5, n = accelerator.reduce(hits, reduction="sum").tolist()  # pyright: ignore
    if n == 0:
        raise DataError(NONE_READABLE)
    assert n <= len(source), (n, len(source))  # fewer only if some images could not be read
    return Accuracy(100 * top1 / n, 100 * top5 / n, n)
