"""Baselines without masks: a linear probe, norms alone, and fine-tuning of all weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from timm_jackpot.base import working_copy
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.task import Outcome, Phase, Role, Stopwatch, Task
from timm_jackpot.methods.train import (
    WarmHeadFlags,
    all_of,
    changed_tensors,
    head_of,
    norms_of,
    train_network,
    unfreeze,
    warm_head,
)
from timm_jackpot.training import average_norm_statistics


class ReferenceSettings(WarmHeadFlags):
    """Settings of dense baselines."""

    group: ClassVar[str] = "Search"

    lr: float = Field(default=0.05, ge=1e-12, le=1e6)
    """Peak learning rate."""


class AdamWSettings(ReferenceSettings):
    """Settings of fine-tuning with AdamW."""

    opt: Literal["sgd", "adam", "adamw"] = "adamw"
    """Optimizer."""
    lr: float = Field(default=1e-3, ge=1e-12, le=1e6)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0, le=1e3)
    """Decay of the trained parameters, decoupled from the gradient."""


@register_method("probe", family="reference", finds_jackpots=False)
def probe(task: Task, budget: Budget, settings: ReferenceSettings) -> Outcome:
    """Linear probe: the head is trained on the frozen network."""
    return _train_dense(task, budget, settings, head_of(task.base), frozen_statistics=True)


@register_method("probe_statistics", family="reference", finds_jackpots=False)
def probe_statistics(task: Task, budget: Budget, settings: ReferenceSettings) -> Outcome:
    """Linear probe, with running norm statistics updated on the new images."""
    return _train_dense(task, budget, settings, head_of(task.base))


@register_method("norm_only", family="reference", paper="arXiv:2003.00152", finds_jackpots=False)
def norm_only(task: Task, budget: Budget, settings: ReferenceSettings) -> Outcome:
    """Train the head and the scales and shifts of norm layers; running norm statistics are updated."""
    return _train_dense(task, budget, settings, {**head_of(task.base), **norms_of(task.base)})


@register_method("full_sgd", family="reference", finds_jackpots=False)
def full_sgd(task: Task, budget: Budget, settings: ReferenceSettings) -> Outcome:
    """Fine-tuning of all parameters with SGD."""
    return _train_dense(task, budget, settings, all_of(task.base.model))


@register_method("full_adamw", family="reference", paper="arXiv:1711.05101", finds_jackpots=False)
def full_adamw(task: Task, budget: Budget, settings: AdamWSettings) -> Outcome:
    """Fine-tuning of all parameters with AdamW."""
    return _train_dense(task, budget, settings, all_of(task.base.model))


def _train_dense(
    task: Task,
    budget: Budget,
    settings: ReferenceSettings,
    roles: Mapping[str, Role],
    *,
    frozen_statistics: bool = False,
) -> Outcome:
    """Train the parameters in `roles`, at `lr` or `head_lr` by their role."""
    watch = Stopwatch()
    model = working_copy(task.base.model, own=roles.keys())
    rest, head = unfreeze(model, roles)
    train_network(
        model,
        task,
        settings,
        rest=rest,
        head=head,
        steps=warm_head(model, head, task, budget, settings),
        seed=budget.seed,
        title="train",
        frozen_statistics=frozen_statistics,
    )
    average_norm_statistics(model, task.accelerator)
    changed = changed_tensors(model, roles, statistics=not frozen_statistics)
    phases = (Phase("training", budget.steps, head_only=not rest),)
    return Outcome(None, changed, budget.steps, watch.seconds, phases=phases)
