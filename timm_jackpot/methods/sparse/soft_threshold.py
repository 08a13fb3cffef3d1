from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from timm_jackpot.adapter import OnWeight, detach, put_on
from timm_jackpot.base import working_copy
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import with_random_weights
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, outcome_of
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import all_of, train_network, unfreeze
from timm_jackpot.runtime.processes import same_everywhere
from timm_jackpot.training import average_norm_statistics


class SoftThresholdSettings(SparseTrainingSettings):
    """Settings of STR."""

    group: ClassVar[str] = "Search"

    threshold_start: float = Field(default=-10.0, ge=-1e6, le=1e2)
    """Where s starts in every layer; its threshold is σ(s)."""


@register_method("soft_threshold", family="sparse training", paper="arXiv:2002.03231", finds_jackpots=False)
def soft_threshold(task: Task, budget: Budget, settings: SoftThresholdSettings) -> Outcome:
    """STR: weights shrink by a threshold that each layer learns; the sparsity emerges, and the budget's is ignored.

    The weight decay (λ) also pulls s to zero, which raises the threshold: with `threshold_start`, it decides how sparse
    the network becomes. Left alone, s shrinks by the factor exp(−λ · sum of learning rates / (1 − momentum)). For 90 %
    of ResNet-50 on ImageNet the authors start at s = −3200, λ = 2.25·10⁻⁵, and take half a million steps.
    """
    watch = Stopwatch()
    task = task if settings.pretrained_weights else with_random_weights(task)
    roles = all_of(task.base.model, task.maskable.weights)
    model = working_copy(task.base.model, own=roles.keys())
    rest, head = unfreeze(model, roles)
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for name in task.maskable.weights}
    layers = {name: SoftThreshold(settings.threshold_start).to(weight.device) for name, weight in weights.items()}
    put_on(model, layers)
    changing = {
        **{f"parameter.{name}": parameter for name, parameter in parameters.items()},
        **{f"threshold.{name}": layer.s for name, layer in layers.items()},
    }

    def masks() -> MaskSet:
        return MaskSet({name: layer(weights[name]) != 0 for name, layer in layers.items()})

    train_network(
        model,
        task,
        settings,
        rest=[*rest, *(layer.s for layer in layers.values())],
        head=head,
        steps=budget.steps,
        seed=budget.seed,
        title="train",
        named=lambda: changing,
        figures=lambda: {"sparsity": masks().sparsity},
    )
    final = masks()
    detach(model)
    with torch.no_grad():
        for name, layer in layers.items():
            weights[name].copy_(layer(weights[name]))
    average_norm_statistics(model, task.accelerator)
    task.record.write("mask_hashes", by_rank=same_everywhere(final.hash(), task.accelerator, "the mask"))
    phase = Phase("training", budget.steps)  # dense: the sparsity comes late
    return outcome_of(model, final, task, watch, [phase], initial=task.base.model.state_dict())


class SoftThreshold(OnWeight):
    """sign(w) · relu(|w| − σ(s)), with one trained s for a layer."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor(start))

    def forward(self, weight: Tensor) -> Tensor:
        return weight.sign() * (weight.abs() - self.s.sigmoid()).relu()
