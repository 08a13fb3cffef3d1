from __future__ import annotations

from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from timm_jackpot.data import ImageSource
from timm_jackpot.errors import DataError
from timm_jackpot.evaluation.loop import NONE_READABLE, logits_and_labels


class Predictions(NamedTuple):
    """A model's first answer to every image of a split, beside the labels; both [n] int64, on the CPU."""

    predicted: Tensor
    labels: Tensor

    @property
    def correct(self) -> Tensor:
        """[n] bool."""
        return self.predicted == self.labels


@torch.inference_mode()
def predict(model: nn.Module, source: ImageSource, *, batch_size: int, accelerator: Accelerator) -> Predictions:
    """Answers of `model` in eval mode to a whole split, as far as it can be read; the same on every rank.

    One split gives one order of images (the ranks' parts, one after the other), whatever the model: answers of
    several models can be compared image by image. The mode is restored.

    Raises:
        DataError: if none of the images can be read.
    """
    predicted, labels = [], []
    for logits, given in logits_and_labels(model, source, batch_size, accelerator):
        predicted.append(logits.argmax(dim=1).cpu())
        labels.append(given.cpu())
    none = torch.zeros(0, dtype=torch.int64)
    parts = gather_object([(torch.cat([none, *predicted]), torch.cat([none, *labels]))])
    answers = Predictions(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))
    if not len(answers.labels):
        raise DataError(NONE_READABLE)
    return answers
