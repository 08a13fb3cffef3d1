from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.change import grow_largest, random_scores, share_out
from timm_jackpot.methods.sparse.network import Moment
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, generator_at, random_masks, sparse_training
from timm_jackpot.methods.task import Outcome, Task

_TOLERANCE = 0.1  # how far the number of dropped weights may be off before the threshold moves (δ)


class DsrSettings(SparseTrainingSettings):
    """Settings of dynamic sparse reparameterization; the threshold is the paper's."""

    group: ClassVar[str] = "Search"

    threshold: float = Field(default=1e-3, ge=1e-12, le=1e6)
    """Weights below it in magnitude are dropped; it is halved or doubled after an update that dropped too many or too
    few."""
    drop_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fraction of all kept weights that an update should drop."""
    update_interval: int = Field(default=100, ge=1, le=10**9)
    """Steps between updates of the masks."""


@register_method("dsr", family="sparse training", paper="arXiv:1902.05967", finds_jackpots=False)
def dsr(task: Task, budget: Budget, settings: DsrSettings) -> Outcome:
    """DSR: one moving threshold drops weights in all layers, and as many grow at random, by layers' survivors."""
    threshold = torch.tensor(settings.threshold)

    def update(moment: Moment) -> Mapping[str, Tensor] | None:
        if moment.step == 0 or moment.step % settings.update_interval:
            return None
        before = sum(int(mask.count_nonzero()) for mask in moment.masks.values())
        left = {
            name: mask & (moment.weights[name].detach().abs() >= threshold.item())
            for name, mask in moment.masks.items()
        }
        survivors = {name: int(mask.count_nonzero()) for name, mask in left.items()}
        dropped, wanted = before - sum(survivors.values()), settings.drop_fraction * before
        if dropped > (1 + _TOLERANCE) * wanted:
            threshold.div_(2)
        elif dropped < (1 - _TOLERANCE) * wanted:
            threshold.mul_(2)
        room = {name: mask.numel() - survivors[name] for name, mask in left.items()}
        grown = share_out(dropped, {name: float(count) for name, count in survivors.items()}, room)
        generator = generator_at(budget, moment.step)
        return {
            name: grow_largest(random_scores(mask, generator=generator), mask, grown[name])
            for name, mask in left.items()
        }

    masks = partial(random_masks, budget=budget)
    return sparse_training(task, budget, settings, masks=masks, update=update, state={"threshold": threshold})
