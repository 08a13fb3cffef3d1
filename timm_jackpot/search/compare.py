"""What a jackpot is measured beside, on the test split."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.methods import Budget, OneShotSettings, Task, build_network, method
from timm_jackpot.training import CALIBRATION_IMAGES, recalibrate


@dataclass(frozen=True)
class Comparison:
    """Top-1 on the test split, one figure per model; None where a new head leaves nothing to compare."""

    jackpot: Accuracy
    dense: Accuracy | None
    magnitude: Accuracy | None
    magnitude_recalibrated: Accuracy | None


def compare_with_controls(network: nn.Module, task: Task, budget: Budget) -> Comparison:
    """Read the test split, once, for the jackpot's `network` and what it is to be compared with."""

    def accuracy(candidate: nn.Module) -> Accuracy:
        return evaluate_accuracy(candidate, task.data.test, batch_size=task.batch_size, accelerator=task.accelerator)

    jackpot = accuracy(network)
    if task.base.new_head:
        return Comparison(jackpot, None, None, None)
    outcome = method("magnitude").run(task, budget, OneShotSettings(recalibrated=False))
    one_shot = build_network(task, outcome)
    magnitude = accuracy(one_shot)
    recalibrate(one_shot, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
    return Comparison(jackpot, accuracy(task.base.model), magnitude, accuracy(one_shot))
