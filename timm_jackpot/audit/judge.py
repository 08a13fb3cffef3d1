"""Every network that is judged: brought to the same statistics, asked once for each test image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from timm_jackpot.errors import TrainingError
from timm_jackpot.evaluation import Predictions, predict
from timm_jackpot.evidence import title_of
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods import Outcome, Task, build_network
from timm_jackpot.processes import say
from timm_jackpot.training import CALIBRATION_IMAGES, recalibrate


class Row(NamedTuple):
    """One network of an audit."""

    name: str
    make: Callable[[], Outcome]
    recalibrated: bool = True  # its norm statistics re-estimated, in the same way for every network
    seed: int | None = None


class Answers(NamedTuple):
    """What a row gave: its answers to the test images, and its masks."""

    predictions: Predictions
    masks: MaskSet | None


class Judge:
    """Makes the networks of a task one by one, and keeps their answers by name, one for each seed."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.answers: dict[str, list[Answers]] = {}

    def ask_all(self, rows: list[Row]) -> None:
        """Raises: TrainingError: if the test split did not give the same images twice."""
        for number, row in enumerate(rows, 1):
            seed = "" if row.seed is None else f", seed {row.seed}"
            title = title_of(row.name)
            say(f"audit: {number} of {len(rows)}: {title}{seed}", self._task.accelerator)
            answers = self._ask(row)
            self.answers.setdefault(row.name, []).append(answers)

    def correct(self) -> dict[str, NDArray[np.bool_]]:
        """Network → [seeds, images], whether each answer was right."""
        return {
            name: np.stack([found.predictions.correct.numpy() for found in several])
            for name, several in self.answers.items()
        }

    def masks(self, name: str) -> list[MaskSet]:
        return [found.masks for found in self.answers[name] if found.masks is not None]

    def agreement(self, a: str, b: str) -> float:
        """Fraction of the test images to which two networks answer the same, on average over their seeds."""
        pairs = [(one.predictions, two.predictions) for one in self.answers[a] for two in self.answers[b]]
        return float(np.mean([(one.predicted == two.predicted).float().mean().item() for one, two in pairs]))

    def _ask(self, row: Row) -> Answers:
        task, outcome = self._task, row.make()
        if row.recalibrated:
            kept = {name: moved for name, moved in outcome.moved.items() if moved.role != "norm_statistics"}
            network = build_network(task, replace(outcome, moved=kept))
            recalibrate(network, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
        else:
            network = build_network(task, outcome)
        found = predict(network, task.data.test, batch_size=task.batch_size, accelerator=task.accelerator)
        first = next(iter(self.answers.values()), [Answers(found, None)])[0].predictions
        if not torch.equal(first.labels, found.labels) or not len(found.labels):
            raise TrainingError("the test split did not give the same images twice: can all of them be read?")
        return Answers(found, outcome.masks)
