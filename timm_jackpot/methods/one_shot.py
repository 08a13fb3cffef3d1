"""One-shot pruning: a criterion picks the weights, norm statistics are re-estimated, nothing is trained."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from timm_jackpot.criteria import criterion, criterion_names
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.task import Outcome, Task, without_training
from timm_jackpot.schema import Settings


class StatisticsSettings(Settings):
    """Settings of methods that do not train."""

    group: ClassVar[str] = "Search"

    recalibrated: bool = True
    """Re-estimate the running statistics of batch norm under the mask on 10,000 training images."""


class OneShotSettings(StatisticsSettings):
    """Settings of one-shot pruning."""

    group: ClassVar[str] = "Search"

    criterion_batches: int = Field(default=1, ge=1, le=10**6)
    """Batches of 256 images that snip, grasp and obd average over."""


def _register_one_shot(name: str) -> None:
    def one_shot(task: Task, budget: Budget, settings: OneShotSettings) -> Outcome:
        masks = start_from(name, task, budget, batches=settings.criterion_batches).masks
        return without_training(task, masks, recalibrated=settings.recalibrated, start=masks)

    one_shot.__doc__ = f"""Keep the weights with the highest {name} scores; nothing is trained."""
    register_method(name, family="one-shot", paper=criterion(name).paper)(one_shot)


for _name in criterion_names():
    _register_one_shot(_name)
