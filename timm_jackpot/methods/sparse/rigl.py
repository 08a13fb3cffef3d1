from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import cos, pi
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.change import drop_and_grow
from timm_jackpot.methods.sparse.network import Moment
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, random_masks, sparse_training
from timm_jackpot.methods.task import Outcome, Task


class RigLSettings(SparseTrainingSettings):
    """Settings of RigL; the defaults are the paper's."""

    group: ClassVar[str] = "Search"

    drop_fraction: float = Field(default=0.3, ge=0, le=1)
    """Fraction of each layer's weights that is replaced at first (α); it falls along a cosine."""
    update_interval: int = Field(default=100, ge=1, le=10**9)
    """Steps between updates of the masks (ΔT)."""
    update_until: float = Field(default=0.75, ge=0, le=1)
    """Fraction of the run after which masks stay (T_end)."""


@register_method("rigl", family="sparse training", paper="arXiv:1911.11134", finds_jackpots=False)
def rigl(task: Task, budget: Budget, settings: RigLSettings) -> Outcome:
    """RigL: every so many steps the smallest weights are dropped, and as many grow where the dense gradient is largest.

    In an update the authors take no optimizer step; here it is taken under the new mask.
    """
    end = settings.update_until * budget.steps

    def update(moment: Moment) -> Mapping[str, Tensor] | None:
        if moment.step == 0 or moment.step % settings.update_interval or moment.step >= end:
            return None
        fraction = settings.drop_fraction / 2 * (1 + cos(pi * moment.step / end))
        return {
            name: drop_and_grow(
                moment.weights[name], mask, moment.gradients[name].abs(), int(fraction * int(mask.sum()))
            )
            for name, mask in moment.masks.items()
        }

    return sparse_training(
        task,
        budget,
        settings,
        masks=partial(random_masks, budget=budget),
        update=update,
        dense_gradients=settings.update_until / settings.update_interval,
    )
