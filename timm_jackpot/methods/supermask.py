from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from timm_jackpot.adapter import ScoreAdapter, attach, detach
from timm_jackpot.base import working_copy
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import with_open_branches, with_random_weights, with_these_weights
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.run import generator_at
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import HeadFlags, changed_tensors, head_of, train_network, unfreeze
from timm_jackpot.runtime.processes import same_everywhere
from timm_jackpot.training import CALIBRATION_IMAGES, recalibrate


class SupermaskSettings(HeadFlags):
    """Settings of supermasks; the defaults for scores are those of the authors' example."""

    group: ClassVar[str] = "Search"

    lr: float = Field(default=100.0, ge=1e-12, le=1e6)
    """Peak learning rate."""
    head_lr: float | None = Field(default=0.1, ge=1e-12, le=1e6)
    """Peak learning rate of a new head."""
    weight_decay: float = Field(default=0.0, ge=0, le=1e3)
    """L2 penalty on the trained parameters."""


@register_method("supermask", family="mask search", paper="arXiv:1905.01067", finds_jackpots=False)
def supermask(task: Task, budget: Budget, settings: SupermaskSettings) -> Outcome:
    """Random weights stay or go with a probability that is trained; the sparsity emerges, the budget's is ignored.

    Each step keeps a weight with probability σ(s), s = 0 at the start, and the gradient goes straight through the
    draw: ∂L/∂s = ∂L/∂w_eff · w · σ'(s). The final mask is one more draw, as in the authors' tests, which average the
    accuracies of ten; norm statistics, which their networks do not have, are re-estimated for it. They mask the
    classifier too, which stays dense here unless it is maskable.
    """
    watch = Stopwatch()
    task = with_open_branches(with_random_weights(task))
    weights = task.maskable.weights
    roles = head_of(task.base, weights) if task.base.new_head else {}
    model = working_copy(task.base.model, own=roles.keys())
    _, head = unfreeze(model, roles)
    adapter = attach(model, {name: torch.zeros_like(weight) for name, weight in weights.items()}, task.maskable.sizes)
    train_network(
        model,
        task,
        settings,
        rest=adapter.scores(),
        head=head,
        steps=budget.steps,
        seed=budget.seed,
        title="search",
        prepare=lambda optimizer: through_sigmoid(optimizer, adapter),
        before_step=lambda step: draw(adapter, generator_at(budget, step)),
        figures=lambda: {"sparsity": _masks(adapter).sparsity},
    )
    draw(adapter, generator_at(budget, budget.steps))
    masks = _masks(adapter)
    recalibrate(model, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
    detach(model)
    task.record.write("mask_hashes", by_rank=same_everywhere(masks.hash(), task.accelerator, "the mask"))
    phases = (Phase("search", budget.steps, masks.kept_per_layer(), dense_gradients=1.0),)
    outcome = Outcome(masks, changed_tensors(model, roles), budget.steps, watch.seconds, phases=phases)
    return with_these_weights(outcome, task)


def draw(adapter: ScoreAdapter, generator: torch.Generator) -> None:
    """Draw masks: u uniform, and s ≥ logit(u) with probability σ(s)."""
    for layer in adapter.values():
        uniform = torch.rand(layer.scores.shape, generator=generator)
        layer.threshold = uniform.logit().to(layer.scores.device)


def through_sigmoid(optimizer: torch.optim.Optimizer, adapter: ScoreAdapter) -> None:
    """Before each step of `optimizer`, take the gradients of probabilities on to the scores: times σ'(s)."""

    @torch.no_grad()
    def chain(*_: Any) -> None:
        for scores in adapter.scores():
            if scores.grad is not None:
                probability = scores.sigmoid()
                scores.grad.mul_(probability * (1 - probability))

    optimizer.register_step_pre_hook(chain)


def _masks(adapter: ScoreAdapter) -> MaskSet:
    return MaskSet({name: layer.scores.detach() >= layer.threshold for name, layer in adapter.items()})
