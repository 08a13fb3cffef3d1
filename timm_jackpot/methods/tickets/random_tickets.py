"""What a ticket is compared with: its mask on fresh weights, and permuted masks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from timm_jackpot.base import BaseRef, random_weights
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.controls import permute_across, permute_within
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.methods.tickets.lottery import GLOBAL
from timm_jackpot.methods.tickets.rounds import (
    Restart,
    TicketSettings,
    plan_rounds,
    prune_in_rounds,
    whole_schedule,
)

_FRESH = 1_000_003  # parts fresh weights from the initial ones


class RandomTicketSettings(TicketSettings):
    """Settings of random tickets."""

    group: ClassVar[str] = "Search"

    permutation: Literal["within", "across"] = "across"
    """Shuffle the mask within each layer, or across all layers."""


@register_method("random_reinit", family="ticket", paper="arXiv:1803.03635", defaults=GLOBAL, finds_jackpots=False)
def random_reinit(task: Task, budget: Budget, settings: TicketSettings) -> Outcome:
    """RR: the mask of a lottery ticket, trained from other random weights than those that it was found with."""
    rounds = plan_rounds(budget, settings.prune_fraction)
    restart = _fresh_in_the_end(len(rounds.sparsities), task.base.ref, budget.seed)
    return prune_in_rounds(
        task, budget, settings, rounds, restart=restart, lr_at=whole_schedule(settings, rounds), initial_step=0
    )


@register_method("random_ticket", family="ticket", paper="arXiv:1906.02773", defaults=GLOBAL, finds_jackpots=False)
def random_ticket(task: Task, budget: Budget, settings: RandomTicketSettings) -> Outcome:
    """Fresh random weights under a shuffled ticket mask; `random_reinit` has the mask that is not shuffled."""
    rounds = plan_rounds(budget, settings.prune_fraction)
    shuffle = permute_within if settings.permutation == "within" else permute_across
    return prune_in_rounds(
        task,
        budget,
        settings,
        rounds,
        restart=_fresh_in_the_end(len(rounds.sparsities), task.base.ref, budget.seed),
        lr_at=whole_schedule(settings, rounds),
        last_masks=partial(shuffle, seed=budget.seed),
        initial_step=0,
    )


def drawn_weights(ref: BaseRef, seed: int) -> dict[str, Tensor]:
    """The random weights that a run with this seed starts from: θ₀.

    Raises:
        BaseError: if timm cannot build the architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return random_weights(ref)


def fresh_weights(ref: BaseRef, seed: int) -> dict[str, Tensor]:
    """Random weights that differ from those that a run with this seed starts from."""
    return drawn_weights(ref, seed + _FRESH)


def _fresh_in_the_end(last: int, ref: BaseRef, seed: int) -> Restart:
    """Rewind in all rounds but the last, which starts from fresh weights."""

    def restart(number: int, early: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return fresh_weights(ref, seed) if number == last else early

    return restart
