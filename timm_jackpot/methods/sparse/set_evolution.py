from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from timm_jackpot.data import steps_per_epoch
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.change import drop_and_grow, random_scores
from timm_jackpot.methods.sparse.network import Moment
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, generator_at, random_masks, sparse_training
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.runtime.processes import shard_of


class SetSettings(SparseTrainingSettings):
    """Settings of SET; the default is the paper's."""

    group: ClassVar[str] = "Search"

    drop_fraction: float = Field(default=0.3, ge=0, le=0.5)
    """Fraction of each layer's weights that is replaced after every epoch (ζ)."""


@register_method("set", family="sparse training", paper="arXiv:1707.04780", finds_jackpots=False)
def sparse_evolution(task: Task, budget: Budget, settings: SetSettings) -> Outcome:
    """SET: after every epoch the smallest weights of each layer are dropped, and as many grow at random positions.

    The paper drops the smallest positive and the largest negative weights by the same fraction each; here the smallest
    in magnitude. New weights start at zero.
    """
    epoch = steps_per_epoch(len(task.data.train), task.batch_size, shard_of(task.accelerator))

    def evolve(moment: Moment) -> Mapping[str, Tensor] | None:
        if moment.step == 0 or moment.step % epoch:
            return None
        generator = generator_at(budget, moment.step)
        return {
            name: drop_and_grow(
                moment.weights[name],
                mask,
                random_scores(mask, generator=generator),
                int(settings.drop_fraction * int(mask.sum())),
            )
            for name, mask in moment.masks.items()
        }

    return sparse_training(task, budget, settings, masks=partial(random_masks, budget=budget), update=evolve)
