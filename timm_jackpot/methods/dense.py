from __future__ import annotations

from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fixed import FixedMaskSettings, under_masks
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.task import Outcome, Task


class DenseSettings(FixedMaskSettings):
    """Settings of the dense base."""

    recalibrated: bool = False
    """Re-estimate the running statistics of batch norm on 10,000 training images."""


@register_method("dense", family="reference", finds_jackpots=False)
def dense(task: Task, budget: Budget, settings: DenseSettings) -> Outcome:
    """The unchanged base, with every weight kept; a new head is trained: a linear probe."""
    return under_masks(task, None, budget, settings)
