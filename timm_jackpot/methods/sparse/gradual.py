from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from timm_jackpot.masks import keep_largest, scale_counts
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.network import Moment
from timm_jackpot.methods.sparse.run import SparseTrainingSettings, sparse_training
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.training import cubic_ramp


class GradualSettings(SparseTrainingSettings):
    """Settings of gradual magnitude pruning; it starts from the base's weights."""

    group: ClassVar[str] = "Search"

    lr: float = Field(default=0.02, ge=1e-12, le=1e6)
    """Peak learning rate."""
    pretrained_weights: bool = True
    """Start from the base's weights instead of random ones."""
    prune_interval: int = Field(default=20, ge=1, le=10**9)
    """Steps between prunings."""
    prune_until: float = Field(default=0.6, ge=0, le=1)
    """Fraction of the run after which the final sparsity is reached."""


@register_method("gradual_magnitude", family="sparse training", paper="arXiv:1710.01878", finds_jackpots=False)
def gradual_magnitude(task: Task, budget: Budget, settings: GradualSettings) -> Outcome:
    """Gradual magnitude pruning: while all weights are trained, the smallest are removed along a cubic ramp."""
    kept: dict[str, int] = {}

    def dense(on: Task) -> Mapping[str, Tensor]:
        kept.update(start_from("magnitude", on, budget).kept)
        return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in on.maskable.weights.items()}

    def prune(moment: Moment) -> Mapping[str, Tensor] | None:
        last = int(settings.prune_until * budget.steps)
        if moment.step != last and (moment.step % settings.prune_interval or moment.step > last):
            return None
        share = cubic_ramp(moment.step, budget.steps, fraction=settings.prune_until)
        sizes = {name: mask.numel() for name, mask in moment.masks.items()}
        counts = scale_counts(sizes, kept, 1.0 if moment.step == last else share)
        # Removed weights are zero, so that they come last; ties keep the first, which is in the mask if counts fall.
        return {
            name: keep_largest(weight.detach().abs().float() + moment.masks[name], counts[name])
            for name, weight in moment.weights.items()
        }

    quarter = int(settings.prune_until * budget.steps) // 4  # the mean of the cubic ramp is three quarters
    return sparse_training(task, budget, settings, masks=dense, update=prune, dense_steps=quarter)
