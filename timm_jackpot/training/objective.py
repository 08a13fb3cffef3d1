"""The loss: cross-entropy, and self-distillation from the base."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Objective:
    """(1 − a) · CE(z, y) + a · T² · KL(softmax(z_t/T) ‖ softmax(z/T)) (Hinton et al. 2015)."""

    label_smoothing: float = 0.0
    teacher: nn.Module | None = None
    distill_weight: float = 0.0  # a
    temperature: float = 2.0  # T

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch: images [b, c, h, w]; labels [b], or probabilities [b, classes]."""
        logits = model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            target = self.teacher(images).float()
        divergence = F.kl_div(
            F.log_softmax(logits / self.temperature, dim=1),
            F.log_softmax(target / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.distill_weight) * loss + self.distill_weight * self.temperature**2 * divergence
