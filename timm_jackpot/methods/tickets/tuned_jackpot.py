"""A jackpot whose kept weights are tuned afterwards: what do its frozen weights cost?"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from timm_jackpot.errors import ConfigError
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import on_network
from timm_jackpot.methods.mask_search import search
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.search_settings import SearchSettings
from timm_jackpot.methods.sparse.run import outcome_of, train_sparse
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task, build_network


class TunedJackpotSettings(SearchSettings):
    """Settings of a search whose result is tuned."""

    group: ClassVar[str] = "Search"

    tune_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Fraction of the run's steps, its last ones, in which the kept weights are trained."""
    tune_lr: float = Field(default=0.01, ge=1e-12, le=1e6)
    """Peak learning rate of the kept weights."""


@register_method("tuned_jackpot", family="ticket", paper="arXiv:2104.08700", finds_jackpots=False)
def tuned_jackpot(task: Task, budget: Budget, settings: TunedJackpotSettings) -> Outcome:
    """The search, and then its kept weights are trained under the mask that it found (Eq. 9)."""
    tuning = round(settings.tune_fraction * budget.steps)
    if not 0 < tuning < budget.steps:
        raise ConfigError(f"{budget.steps} steps are too few to search and to tune: raise --steps")
    watch = Stopwatch()
    found = search(task, replace(budget, steps=budget.steps - tuning), settings)
    assert found.masks is not None
    network = build_network(task, found)
    # Without checkpoints: a stopped run resumes from those of the search.
    tuned = replace(on_network(task, network), state=None)
    own = settings.model_copy(update={"lr": settings.tune_lr})
    masks, trained = train_sparse(tuned, replace(budget, steps=tuning), own, found.masks)
    phases = [*found.phases, Phase("training", tuning, masks.kept_per_layer())]
    return outcome_of(trained, masks, task, watch, phases, start=found.start, initial=network.state_dict())
