"""Magnitude pruning in rounds, by what happens to the weights that are left."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.methods.tickets.rounds import (
    Restart,
    TicketSettings,
    back_to,
    go_on,
    plan_rounds,
    prune_in_rounds,
    whole_schedule,
)
from timm_jackpot.training import learning_rate


class FineTunedSettings(TicketSettings):
    """Settings of pruning with fine-tuning."""

    group: ClassVar[str] = "Search"

    finetune_lr: float = Field(default=0.01, ge=1e-12, le=1e6)
    """Peak learning rate after a pruning."""
    from_base: bool = False
    """Prune the base's own weights, instead of training random ones first."""


class OneShotPruningSettings(FineTunedSettings):
    """Settings of one-shot pruning with fine-tuning."""

    group: ClassVar[str] = "Search"

    prune_fraction: float = Field(default=1.0, ge=0.01, le=1)
    """Fraction of the remaining weights that each round removes; 1 removes all that must go at once (one-shot)."""


class ResettingSettings(TicketSettings):
    """Settings of late resetting."""

    group: ClassVar[str] = "Search"

    rewind: float = Field(default=0.05, ge=0, lt=1)
    """How far into dense training the weights are to which the ticket returns, as a fraction of it."""


class RewindingSettings(TicketSettings):
    """Settings of rewinding."""

    group: ClassVar[str] = "Search"

    rewind: float = Field(default=0.25, ge=0, lt=1)
    """The fraction of dense training that is not repeated after a pruning."""


GLOBAL = {"allocation": "global"}  # one threshold for all layers, as in all of these papers


@register_method("omp", family="ticket", paper="arXiv:1506.02626", defaults=GLOBAL, finds_jackpots=False)
def omp(task: Task, budget: Budget, settings: OneShotPruningSettings) -> Outcome:
    """One-shot magnitude pruning: train the dense network, remove its smallest weights, fine-tune."""
    return _fine_tuned(task, budget, settings)


@register_method("imp", family="ticket", paper="arXiv:1506.02626", defaults=GLOBAL, finds_jackpots=False)
def imp(task: Task, budget: Budget, settings: FineTunedSettings) -> Outcome:
    """Iterative magnitude pruning: remove a fifth of the remaining weights in each round, and fine-tune."""
    return _fine_tuned(task, budget, settings)


@register_method("lottery_ticket", family="ticket", paper="arXiv:1803.03635", defaults=GLOBAL, finds_jackpots=False)
def lottery_ticket(task: Task, budget: Budget, settings: TicketSettings) -> Outcome:
    """LT: after each round of magnitude pruning, the weights return to their initial values and are trained again."""
    return _rewound(task, budget, settings, rewind=0.0)


@register_method("late_resetting", family="ticket", paper="arXiv:1903.01611", defaults=GLOBAL, finds_jackpots=False)
def late_resetting(task: Task, budget: Budget, settings: ResettingSettings) -> Outcome:
    """LT that returns to weights from early in dense training, and repeats the whole schedule from there."""
    return _rewound(task, budget, settings, rewind=settings.rewind)


@register_method("weight_rewinding", family="ticket", paper="arXiv:2003.02389", defaults=GLOBAL, finds_jackpots=False)
def weight_rewinding(task: Task, budget: Budget, settings: RewindingSettings) -> Outcome:
    """After each pruning, weights and learning rate return to where they were at one step of dense training."""
    return _shortened(task, budget, settings, restart=back_to)


@register_method("lr_rewinding", family="ticket", paper="arXiv:2003.02389", defaults=GLOBAL, finds_jackpots=False)
def lr_rewinding(task: Task, budget: Budget, settings: RewindingSettings) -> Outcome:
    """After each pruning, only the learning rate returns to an earlier step; weights go on from where they are."""
    return _shortened(task, budget, settings, restart=go_on)


def _rewound(task: Task, budget: Budget, settings: TicketSettings, *, rewind: float) -> Outcome:
    rounds = plan_rounds(budget, settings.prune_fraction, rewind=rewind)
    return prune_in_rounds(
        task,
        budget,
        settings,
        rounds,
        restart=back_to,
        lr_at=whole_schedule(settings, rounds),
        initial_step=rounds.rewind_step,
    )


def _fine_tuned(task: Task, budget: Budget, settings: FineTunedSettings) -> Outcome:
    rounds = plan_rounds(budget, settings.prune_fraction, from_base=settings.from_base)
    later = settings.model_copy(update={"lr": settings.finetune_lr})
    first, then = whole_schedule(settings, rounds), whole_schedule(later, rounds)
    return prune_in_rounds(
        task,
        budget,
        settings,
        rounds,
        restart=go_on,
        lr_at=lambda number, step: then(number, step) if number else first(number, step),
        initial_step=rounds.starts[-2],
        from_base=settings.from_base,
    )


def _shortened(task: Task, budget: Budget, settings: RewindingSettings, *, restart: Restart) -> Outcome:
    """Rounds that repeat dense training, or its learning rates, from the rewind step on."""
    rounds = plan_rounds(budget, settings.prune_fraction, rewind=settings.rewind, shortened=True)

    def lr_at(number: int, step: int) -> float:
        return learning_rate(settings, step + (rounds.rewind_step if number else 0), rounds.starts[1])

    initial_step = rounds.starts[-2] if restart is go_on else rounds.rewind_step
    return prune_in_rounds(task, budget, settings, rounds, restart=restart, lr_at=lr_at, initial_step=initial_step)
