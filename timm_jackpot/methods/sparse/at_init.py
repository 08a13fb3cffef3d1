"""Masks that are chosen at initialization and stay: random, SNIP and GraSP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from timm_jackpot.base import working_copy
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import with_open_branches
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, random_masks, sparse_training
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.training import CALIBRATION_IMAGES, recalibrate


class AtInitSettings(SparseTrainingSettings):
    """Settings of pruning at initialization."""

    group: ClassVar[str] = "Search"

    criterion_batches: int = Field(default=1, ge=1, le=10**6)
    """Batches of 256 images that the criterion averages over."""


@register_method("static_random", family="sparse training", finds_jackpots=False)
def static_random(task: Task, budget: Budget, settings: SparseTrainingSettings) -> Outcome:
    """Random weights under a random mask that stays."""
    return sparse_training(task, budget, settings, masks=partial(random_masks, budget=budget))


@register_method(
    "snip_at_init",
    family="sparse training",
    paper="arXiv:1810.02340",
    defaults={"allocation": "global"},
    finds_jackpots=False,
)
def snip_at_init(task: Task, budget: Budget, settings: AtInitSettings) -> Outcome:
    """SNIP: |w ⊙ ∂L/∂w| of the random weights chooses a mask, which stays while they are trained."""
    return _by_criterion("snip", task, budget, settings)


@register_method(
    "grasp_at_init",
    family="sparse training",
    paper="arXiv:2002.07376",
    defaults={"allocation": "global"},
    finds_jackpots=False,
)
def grasp_at_init(task: Task, budget: Budget, settings: AtInitSettings) -> Outcome:
    """GraSP: the mask that keeps the gradient norm of the random weights large stays while they are trained."""
    return _by_criterion("grasp", task, budget, settings)


def _by_criterion(name: str, task: Task, budget: Budget, settings: AtInitSettings) -> Outcome:
    def masks(on: Task) -> Mapping[str, Tensor]:
        opened = with_open_branches(on)
        rated = opened if settings.pretrained_weights else _normalizing(opened)
        return start_from(name, rated, budget, batches=settings.criterion_batches).masks

    return sparse_training(task, budget, settings, masks=masks)


def _normalizing(task: Task) -> Task:
    """The task with the norm statistics of its random weights: under those of a new network, 0 and 1, norms do nothing.

    Without them, SNIP and GraSP would rate another network than the one that is trained.
    """
    model = working_copy(task.base.model)
    recalibrate(model, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
    return replace(task, base=replace(task.base, model=model))
