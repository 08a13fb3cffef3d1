"""Test accuracy of a jackpot, its dense base and one-shot magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.methods import Budget, FixedMaskSettings, OneShotSettings, Task, build_network, method
from timm_jackpot.methods.dense import DenseSettings
from timm_jackpot.search.config import RunConfig


@dataclass(frozen=True)
class Accuracies:
    """Accuracy on the test split. Where the search trains a head, so do the others, for as many steps; norms stay."""

    jackpot: Accuracy
    dense: Accuracy
    magnitude: Accuracy | None  # None where a head is trained, which needs statistics of these weights
    magnitude_recalibrated: Accuracy


def measure_on_test(network: nn.Module, task: Task, budget: Budget, config: RunConfig) -> Accuracies:
    """Evaluate the jackpot's `network`, the dense base and magnitude pruning on the test split, once each."""

    trains_head = task.base.new_head or getattr(config, "train_head", False)

    def accuracy(candidate: nn.Module) -> Accuracy:
        return evaluate_accuracy(candidate, task.data.test, batch_size=task.batch_size, accelerator=task.accelerator)

    def control(name: str, settings: FixedMaskSettings) -> Accuracy:
        without_norms = settings.model_copy(update={"train_norm": False})
        return accuracy(build_network(task, method(name).run(task, budget, without_norms)))

    return Accuracies(
        jackpot=accuracy(network),
        dense=control("dense", DenseSettings.like(config, recalibrated=False)),
        magnitude=None if trains_head else control("magnitude", OneShotSettings.like(config, recalibrated=False)),
        magnitude_recalibrated=control("magnitude", OneShotSettings.like(config, recalibrated=True)),
    )
