"""Every model that is judged: made, brought to the same statistics, asked once for each test image."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from timm_jackpot.adapter import merge
from timm_jackpot.data import Data
from timm_jackpot.errors import TrainingError
from timm_jackpot.evaluation import Predictions, predict
from timm_jackpot.evidence.section import TITLES
from timm_jackpot.masks import MaskSet
from timm_jackpot.processes import say
from timm_jackpot.search.compare import CALIBRATION_IMAGES, calibrate


class Judge:
    """Asks models for their answers, and keeps these by the model's name, one for each seed.

    Args:
        dense: the base on its device, frozen, in eval mode; every model is made from a copy of it.
        expected: how many models there will be, for the lines on stderr.
    """

    def __init__(
        self, dense: nn.Module, data: Data, *, batch_size: int, accelerator: Accelerator, expected: int
    ) -> None:
        self._dense, self._data, self._batch_size, self._accelerator = dense, data, batch_size, accelerator
        self._expected, self._done = expected, 0
        self.answers: dict[str, list[Predictions]] = {}

    def announce(self, name: str, seed: int | None = None) -> None:
        """Say which model comes next."""
        suffix = "" if seed is None else f", seed {seed}"
        say(f"audit: {self._done + 1} of {self._expected}: {TITLES[name]}{suffix}", self._accelerator)

    def ask(
        self,
        name: str,
        masks: MaskSet | None = None,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        recalibrate: bool = True,
    ) -> Predictions:
        """Answers of the base with `masks` (none: dense) and `tensors` of the state dict in the place of its own.

        Args:
            recalibrate: re-estimate norm statistics, in the same way for every model.

        Raises:
            TrainingError: if the test split did not give the same images as before.
        """
        model = copy.deepcopy(self._dense)
        state = model.state_dict()
        with torch.no_grad():
            for key, tensor in (tensors or {}).items():
                state[key].copy_(tensor)
        if masks is not None:
            merge(model, masks)
        if recalibrate:
            calibrate(model, self._data, self._batch_size, self._accelerator, images=CALIBRATION_IMAGES)
        found = predict(model, self._data.test, batch_size=self._batch_size, accelerator=self._accelerator)
        first = next(iter(self.answers.values()), [found])[0]
        if not torch.equal(first.labels, found.labels) or not len(found.labels):
            raise TrainingError("the test split did not give the same images twice: can all of them be read?")
        self.answers.setdefault(name, []).append(found)
        self._done += 1
        return found

    def correct(self) -> dict[str, NDArray[np.bool_]]:
        """Model → [seeds, images], whether each answer was right."""
        return {name: np.stack([found.correct.numpy() for found in several]) for name, several in self.answers.items()}

    def agreement(self, a: str, b: str) -> float:
        """Fraction of the test images to which two models answer the same, on average over their seeds."""
        pairs = [(one, two) for one in self.answers[a] for two in self.answers[b]]
        return float(np.mean([(one.predicted == two.predicted).float().mean().item() for one, two in pairs]))
