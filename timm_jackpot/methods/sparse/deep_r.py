from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.change import grow_largest, random_scores
from timm_jackpot.methods.sparse.network import Moment
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, generator_at, random_masks, sparse_training
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.training import learning_rate


class DeepRSettings(SparseTrainingSettings):
    """Settings of Deep R; the default of `l1` is that of the authors' code."""

    group: ClassVar[str] = "Search"

    l1: float = Field(default=1e-5, ge=0, le=1e3)
    """L1 penalty on the kept weights (α): a step shrinks them by the learning rate times this."""
    temperature: float = Field(default=0.0, ge=0, le=1e3)
    """Noise on the kept weights (T): a step adds √(2ηT) of it, where η is the learning rate. The authors' code adds
    η·10⁻⁵, that is, T = η·10⁻¹⁰/2."""


@register_method("deep_r", family="sparse training", paper="arXiv:1711.05136", finds_jackpots=False)
def deep_r(task: Task, budget: Budget, settings: DeepRSettings) -> Outcome:
    """Deep R: weights keep their sign; one that would change it is removed, and another grows at random.

    This happens after every step, in each layer by itself, so that every layer keeps its count. Algorithm 1 of the
    paper bounds the total of the network; the authors' code has both. A new weight starts at zero, and its sign is that
    of its initial value. Theirs is plain SGD; here `momentum` and `weight_decay` apply as in all sparse training, but
    not to the penalty and the noise.
    """
    signs: dict[str, Tensor] = {}

    def masks(on: Task) -> Mapping[str, Tensor]:
        signs.update({name: signs_of(weight.detach()) for name, weight in on.maskable.weights.items()})
        return random_masks(on, budget)

    def rewire(moment: Moment) -> Mapping[str, Tensor]:
        lr = learning_rate(settings, moment.step - 1, budget.steps)
        generator = generator_at(budget, moment.step)
        changed = {}
        for name, mask in moment.masks.items():
            weight = moment.weights[name]
            if settings.temperature:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.add_(noise * mask, alpha=(2 * lr * settings.temperature) ** 0.5)
            left = leave_positive(weight, signs[name], mask, shrink=lr * settings.l1)
            dropped = int(mask.count_nonzero()) - int(left.count_nonzero())
            changed[name] = grow_largest(random_scores(mask, generator=generator), left, dropped)
        return changed

    return sparse_training(task, budget, settings, masks=masks, after_step=rewire)


def signs_of(weight: Tensor) -> Tensor:
    """1 or −1 for each weight; zeros are positive."""
    return torch.where(weight < 0, -1.0, 1.0)


def leave_positive(weight: Tensor, signs: Tensor, mask: Tensor, *, shrink: float) -> Tensor:
    """Shrink the weights in the mask, in place; those that then have the wrong sign become zero, and leave the mask.

    Weights are θ ⊙ signs, θ ≥ 0 in the mask; θ ← θ − `shrink`, and where θ < 0, the connection becomes dormant.
    """
    weight.sub_(shrink * signs * mask)
    left = mask & (weight * signs >= 0)
    weight.masked_fill_(~left, 0.0)
    return left
