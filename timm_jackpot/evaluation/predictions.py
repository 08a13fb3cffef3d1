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
    """A model's top-1 prediction for every image of a split, and the labels; both [n] int64, on the CPU."""

    predicted: Tensor
    labels: Tensor

    @property
    def correct(self) -> Tensor:
        """[n] bool."""
        return self.predicted == self.labels


@torch.inference_mode()
def predict(model: nn.Module, source: ImageSource, *, batch_size: int, accelerator: Accelerator) -> Predictions:
    """Predictions of `model` in eval mode for all readable images of a split; the same on every rank.

    The order of the images (one rank's shard after the other) does not depend on the model, so the predictions of
    several models can be compared image by image. The training mode is restored.

    Raises:
        DataError: if no image can be read.
    """
    predicted, labels = [], []
    for logits, given in logits_and_labels(model, source, batch_size, accelerator):
        predicted.append(logits.argmax(dim=1).cpu())
        labels.append(given.cpu())
    none = torch.zeros(0, dtype=torch.int64)
    parts = gather_object([(torch.cat([none, *predicted]), torch.cat([none, *labels]))])
    found = Predictions(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))
    if not len(found.labels):
        raise DataError(NONE_READABLE)
    return found
