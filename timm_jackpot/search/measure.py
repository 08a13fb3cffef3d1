"""Test accuracy of a jackpot, its dense base and one-shot magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.methods import Budget, OneShotSettings, Task, build_network, method
from timm_jackpot.training import CALIBRATION_IMAGES, recalibrate


@dataclass(frozen=True)
class Accuracies:
    """Accuracy on the test split; None where a new head leaves nothing to compare with."""

    jackpot: Accuracy
    dense: Accuracy | None
    magnitude: Accuracy | None
    magnitude_recalibrated: Accuracy | None


def measure_on_test(network: nn.Module, task: Task, budget: Budget) -> Accuracies:
    """Evaluate the jackpot's `network`, the dense base and magnitude pruning on the test split, once each."""

    def accuracy(candidate: nn.Module) -> Accuracy:
        return evaluate_accuracy(candidate, task.data.test, batch_size=task.batch_size, accelerator=task.accelerator)

    jackpot = accuracy(network)
    if task.base.new_head:
        return Accuracies(jackpot, None, None, None)
    outcome = method("magnitude").run(task, budget, OneShotSettings(recalibrated=False))
    one_shot = build_network(task, outcome)
    magnitude = accuracy(one_shot)
    recalibrate(one_shot, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
    return Accuracies(jackpot, accuracy(task.base.model), magnitude, accuracy(one_shot))
