from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from timm_jackpot.adapter import ScoreAdapter, attach, detach
from timm_jackpot.base import working_copy
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import (
    AlongFlags,
    WarmHeadFlags,
    changed_tensors,
    train_network,
    trained_parameters,
    unfreeze,
    warm_head,
)
from timm_jackpot.training import average_norm_statistics


class PiggybackSettings(WarmHeadFlags, AlongFlags):
    """Settings of Piggyback; the defaults of scores and optimizer are the paper's."""

    group: ClassVar[str] = "Search"

    opt: Literal["sgd", "adam", "adamw"] = "adam"
    """Optimizer."""
    lr: float = Field(default=1e-4, ge=1e-12, le=1e6)
    """Peak learning rate."""
    head_lr: float | None = Field(default=1e-3, ge=1e-12, le=1e6)
    """Peak learning rate of a new or trained head."""
    weight_decay: float = Field(default=0.0, ge=0, le=1e3)
    """L2 penalty on the trained parameters."""
    initial_score: float = Field(default=1e-2, ge=1e-6, le=1e6)
    """Score of every weight at the start."""
    threshold: float = Field(default=5e-3, ge=-1e6, le=1e6)
    """Weights whose scores fall below it are removed."""


@register_method("piggyback", family="mask search", paper="arXiv:1801.06519", finds_jackpots=False)
def piggyback(task: Task, budget: Budget, settings: PiggybackSettings) -> Outcome:
    """Scores against one fixed threshold: the sparsity is an outcome, and the budget's is ignored.

    Here norm statistics move and the learning rate follows a cosine, as in every search; the authors freeze the
    statistics and decay the rate once.
    """
    watch = Stopwatch()
    weights = task.maskable.weights
    roles = trained_parameters(task.base, weights, settings)
    model = working_copy(task.base.model, own=roles.keys())
    norms, head = unfreeze(model, roles)
    steps = warm_head(model, head, task, budget, settings)
    scores = {name: torch.full_like(weight, settings.initial_score) for name, weight in weights.items()}
    adapter = attach(model, scores, task.maskable.sizes)
    for layer in adapter.values():
        layer.threshold.fill_(settings.threshold)
    train_network(
        model,
        task,
        settings,
        rest=[*adapter.scores(), *norms],
        head=head,
        steps=steps,
        seed=budget.seed,
        title="search",
        figures=lambda: {"sparsity": _masks(adapter).sparsity},
    )
    masks = _masks(adapter)
    detach(model)
    average_norm_statistics(model, task.accelerator)
    phases = (Phase("search", budget.steps, masks.kept_per_layer(), dense_gradients=1.0),)
    return Outcome(masks, changed_tensors(model, roles), budget.steps, watch.seconds, phases=phases)


def _masks(adapter: ScoreAdapter) -> MaskSet:
    return MaskSet({name: layer.scores.detach() >= layer.threshold for name, layer in adapter.items()})
