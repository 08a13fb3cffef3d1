from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import cos, pi
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from timm_jackpot.data import steps_per_epoch
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.change import drop_smallest, grow_largest, share_out
from timm_jackpot.methods.sparse.network import Moment
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, random_masks, sparse_training
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.runtime.processes import shard_of

_LEAST = 0.005  # the drop fraction at the end, as in the authors' code
_FULLEST = 0.99  # of the room in a layer, as there


class SparseMomentumSettings(SparseTrainingSettings):
    """Settings of Sparse Momentum; the default is that of the authors' code."""

    group: ClassVar[str] = "Search"

    drop_fraction: float = Field(default=0.5, ge=0, le=1)
    """Fraction of each layer's weights that is dropped after the first epoch; it falls along a cosine."""


@register_method("sparse_momentum", family="sparse training", paper="arXiv:1907.04840", finds_jackpots=False)
def sparse_momentum(task: Task, budget: Budget, settings: SparseMomentumSettings) -> Outcome:
    """Sparse Momentum: dropped weights are shared out to layers by their mean momentum, and grow where it is largest.

    After every epoch, each layer drops its smallest weights. The authors keep a layer that is nearly dense from
    dropping more than its zeros; here it may.
    """
    epoch = steps_per_epoch(len(task.data.train), task.batch_size, shard_of(task.accelerator))
    averages = {name: torch.zeros_like(weight) for name, weight in task.maskable.weights.items()}

    def update(moment: Moment) -> Mapping[str, Tensor] | None:
        if moment.step and moment.step % epoch == 0:
            changed = _redistribute(moment, averages, _fraction(settings.drop_fraction, moment.step, budget.steps))
        else:
            changed = None
        for name, gradient in moment.gradients.items():
            averages[name].mul_(settings.momentum).add_(gradient)
        return changed

    masks = partial(random_masks, budget=budget)
    return sparse_training(task, budget, settings, masks=masks, update=update, state=averages, dense_gradients=1.0)


def _fraction(first: float, step: int, steps: int) -> float:
    return _LEAST + max(0.0, first - _LEAST) * (1 + cos(pi * step / steps)) / 2 if first else 0.0


def _redistribute(moment: Moment, averages: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Drop a fraction of each layer's weights, and grow as many in all, by the dense averages of gradients."""
    counts = {name: int(fraction * int(mask.count_nonzero())) for name, mask in moment.masks.items()}
    left = {name: drop_smallest(moment.weights[name], mask, counts[name]) for name, mask in moment.masks.items()}
    means = {name: float(averages[name][mask].abs().mean()) if bool(mask.any()) else 0.0 for name, mask in left.items()}
    free = {name: mask.numel() - int(mask.count_nonzero()) for name, mask in left.items()}
    room = {name: max(counts[name], int(_FULLEST * n)) for name, n in free.items()}
    grown = share_out(sum(counts.values()), means, room)
    return {name: grow_largest(averages[name].abs(), mask, grown[name]) for name, mask in left.items()}
