"""Iterative magnitude pruning: train, prune, rewind or go on, and train again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from math import ceil, floor
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet, keep_largest, parse_sparsity
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import with_random_weights
from timm_jackpot.methods.sparse.network import SparseWeights
from timm_jackpot.methods.sparse.run import outcome_of, refuse_pattern, train_sparse
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import HeadFlags
from timm_jackpot.training import learning_rate


class TicketSettings(HeadFlags):
    """Settings of iterative magnitude pruning. The run's steps are shared out: dense training first, then as many
    for each round."""

    group: ClassVar[str] = "Search"

    lr: float = Field(default=0.1, ge=1e-12, le=1e6)
    """Peak learning rate."""
    prune_fraction: float = Field(default=0.2, ge=0.01, le=1)
    """Fraction of the remaining weights that each round removes; 1 removes all that must go at once (one-shot)."""


@dataclass(frozen=True)
class Rounds:
    """When weights are pruned, and how far."""

    sparsities: tuple[str, ...]  # after each round; the last is the budget's
    starts: tuple[int, ...]  # first step of dense training and of each round, and the number of steps
    rewind_step: int  # of dense training, to which weights and schedule may return

    def round_of(self, step: int) -> int:
        """0 during dense training, r after round r."""
        return bisect_right(self.starts, step, hi=len(self.starts) - 1) - 1


def plan_rounds(
    budget: Budget, prune_fraction: float, *, rewind: float = 0.0, shortened: bool = False, from_base: bool = False
) -> Rounds:
    """Share the budget's steps out to dense training and to rounds.

    Args:
        from_base: whether the weights are trained already, so that the first round begins at once.
        rewind: the fraction of dense training to whose end weights are rewound.
        shortened: whether the rounds leave that fraction out.

    Raises:
        ConfigError: if there are fewer steps than rounds.
    """
    target = parse_sparsity(budget.sparsity)
    left, sparsities = Decimal(1), []
    while target > 0 and (not sparsities or sparsities[-1] < target):
        left *= 1 - Decimal(str(prune_fraction))
        sparsities.append(min(target, round(1 - left, 6)))
    rounds = len(sparsities)
    first = 0 if from_base and rounds else 1
    each = 1 - rewind if shortened else 1.0
    dense = budget.steps / (first + each * rounds)
    if rounds and each * dense < 1:
        raise ConfigError(
            f"{rounds} rounds of pruning need at least {ceil(first / each + rounds)} steps, not {budget.steps}: raise "
            "--steps, or prune more at once with a larger --prune-fraction"
        )
    starts = [0, *(floor(dense * (first + each * i) + 0.5) for i in range(rounds + 1))]
    return Rounds(tuple(f"{s:f}" for s in sparsities), tuple(starts), round(rewind * starts[1]))


# From the number of a round and the state at the rewind step: the state that the round starts from; None: as it is.
Restart = Callable[[int, Mapping[str, Tensor]], Mapping[str, Tensor] | None]


def back_to(number: int, early: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Every parameter and buffer goes back to its early value."""
    return early


def go_on(number: int, early: Mapping[str, Tensor]) -> None:
    """The network is trained further from where it is."""


def prune_in_rounds(
    task: Task,
    budget: Budget,
    settings: TicketSettings,
    rounds: Rounds,
    *,
    restart: Restart,
    lr_at: Callable[[int, int], float],
    last_masks: Callable[[MaskSet], MaskSet] = lambda masks: masks,
    initial_step: int,
    from_base: bool = False,
) -> Outcome:
    """Train the network with random weights, prune it by magnitude in rounds, and train it after each.

    Args:
        restart: says which state a round starts from; its maskable weights are masked then.
        lr_at: the learning rate by round (0: dense training) and step in it.
        last_masks: changes the masks of the last round.
        initial_step: steps of training behind the weights that the last round starts from.
        from_base: whether the network keeps the base's weights, and `rounds` begin at once.
    """
    refuse_pattern(budget)
    watch = Stopwatch()
    task = task if from_base else with_random_weights(task)
    early = {name: torch.zeros_like(tensor) for name, tensor in task.base.model.state_dict().items()}
    began = {name: torch.zeros_like(tensor) for name, tensor in early.items()}

    def before_step(step: int, model: nn.Module, sparse: SparseWeights) -> None:
        if step == rounds.rewind_step:
            _copy(model.state_dict(), early)
        number = rounds.round_of(step)
        if number and step == rounds.starts[number]:
            masks = pruned(sparse, replace(budget, sparsity=rounds.sparsities[number - 1]))
            masks = last_masks(masks) if number == len(rounds.sparsities) else masks
            if (state := restart(number, early)) is not None:
                model.load_state_dict(dict(state))
            _copy(model.state_dict(), began)
            sparse.forget_averages()
            sparse.replace_masks(masks)
        elif step == 0:
            _copy(model.state_dict(), began)

    dense = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in task.maskable.weights.items()}
    state = {f"rewind.{name}": tensor for name, tensor in early.items()}
    state |= {f"began.{name}": tensor for name, tensor in began.items()}
    final, model = train_sparse(
        task,
        budget,
        settings,
        dense,
        before_step=before_step,
        lr_at=lambda step: lr_at(number := rounds.round_of(step), step - rounds.starts[number]),
        state=state,
    )
    return outcome_of(
        model,
        final,
        task,
        watch,
        _phases(rounds, final),
        start=MaskSet(dense),
        initial=began,
        initial_step=initial_step,
    )


def pruned(sparse: SparseWeights, budget: Budget) -> MaskSet:
    """The masks that keep the budget's number of weights, the largest of those that are left."""
    magnitudes = {
        name: torch.where(sparse.masks[name], weight.detach().abs().float(), -1.0)
        for name, weight in sparse.weights.items()
    }
    kept = budget.counts(magnitudes)
    return MaskSet({name: keep_largest(values, kept[name]) for name, values in magnitudes.items()})


def whole_schedule(settings: HeadFlags, rounds: Rounds) -> Callable[[int, int], float]:
    """The schedule in the settings, from its beginning in every round."""
    lengths = [end - start for start, end in pairwise(rounds.starts)]
    return lambda number, step: learning_rate(settings, step, lengths[number])


def _copy(state: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(state[name])


def _phases(rounds: Rounds, final: MaskSet) -> list[Phase]:
    """Dense training and the rounds; layers between dense and the final masks are counted in proportion."""
    total = {name: mask.numel() for name, mask in final.items()}
    last = final.kept_per_layer()
    steps = [end - start for start, end in pairwise(rounds.starts)]
    phases = [Phase("dense training", steps[0])] if steps[0] else []
    for number, (sparsity, length) in enumerate(zip(rounds.sparsities, steps[1:], strict=True), 1):
        share = float(sparsity) / float(rounds.sparsities[-1])
        kept = {name: round(total[name] - share * (total[name] - last[name])) for name in total}
        final_round = number == len(rounds.sparsities)
        phases.append(Phase("training" if final_round else "pruning rounds", length, kept))
    return phases
