"""One-shot pruning: a criterion picks the weights, norm statistics are re-estimated, no weight is trained."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from timm_jackpot.criteria import criterion, criterion_names
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fixed import FixedMaskSettings, under_masks
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.task import Outcome, Task


class OneShotSettings(FixedMaskSettings):
    """Settings of one-shot pruning."""

    group: ClassVar[str] = "Search"

    criterion_batches: int = Field(default=1, ge=1, le=10**6)
    """Batches of 256 images that snip, grasp and obd average over."""


def _register_one_shot(name: str) -> None:
    def one_shot(task: Task, budget: Budget, settings: OneShotSettings) -> Outcome:
        masks = start_from(name, task, budget, batches=settings.criterion_batches).masks
        return under_masks(task, masks, budget, settings, start=masks)

    one_shot.__doc__ = f"""Keep the weights with the highest {name} scores; only a new head is trained."""
    register_method(name, family="one-shot", paper=criterion(name).paper)(one_shot)


for _name in criterion_names():
    _register_one_shot(_name)
