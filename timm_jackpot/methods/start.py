"""The start of a search: the criterion's scores, the allocated budget, the initial scores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch
from accelerate.utils import broadcast
from torch import Tensor

from timm_jackpot.base import Filters, Maskable
from timm_jackpot.criteria import criterion, magnitude
from timm_jackpot.data import Batch, ImageSource
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet, filter_sums, keep_largest, keep_n_of_m
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.task import Task
from timm_jackpot.runtime.processes import Shard

_CRITERION_IMAGES = 256  # images per criterion batch
_CRITERION_SEED = 256
_STARVED, _STARVED_SHARE = Fraction(1, 20), Fraction(1, 10)


@dataclass(frozen=True)
class Start:
    """The criterion's scores, the final kept count of every layer, and the pattern of the masks, if there is one."""

    scores: dict[str, Tensor]
    kept: dict[str, int]
    n_of_m: tuple[int, int] | None = None
    filters: Filters | None = None  # to keep as a whole; `scores` are then their sums

    @classmethod
    def of(cls, scores: dict[str, Tensor], maskable: Maskable, budget: Budget) -> Start:
        """Share the budget out to the layers; for whole filters, add up the scores of each.

        Raises:
            ConfigError: for minimums, overrides or patterns that the layers cannot satisfy.
        """
        if not budget.is_pattern:
            return cls(scores, budget.counts(scores))
        if maskable.filters is not None:
            scores = filter_sums(scores, maskable.filters.groups)
        return cls(scores, budget.counts(scores), budget.n_of_m, maskable.filters)

    @property
    def masks(self) -> MaskSet:
        """The masks that the criterion alone would give, at the same counts."""
        if self.n_of_m is not None:
            return MaskSet({name: keep_n_of_m(values, *self.n_of_m) for name, values in self.scores.items()})
        return MaskSet({name: keep_largest(values, self.kept[name]) for name, values in self.scores.items()})

    @property
    def sizes(self) -> dict[str, int]:
        return {name: values.numel() for name, values in self.scores.items()}


def start_from(name: str, task: Task, budget: Budget, *, batches: int = 1) -> Start:
    """Evaluate the criterion `name` and allocate the budget; the same on every rank.

    Args:
        batches: how many batches of 256 training images a criterion averages over, if it needs images.

    Raises:
        ConfigError: for minimums, overrides or patterns that the layers cannot satisfy.
    """
    scores = criterion(name).scores(
        task.maskable.weights,
        task.base.model,
        batches=lambda: _FirstBatches(task.data.train, batches, budget.seed),
        input_size=task.data.config["input_size"],
        seed=budget.seed,
        kept=lambda: _counts_of_magnitude(name, task, budget),
    )
    # Every rank reads the same images, but kernels may round differently.
    if task.accelerator.num_processes > 1:
        scores = {layer: cast(Tensor, broadcast(values)) for layer, values in scores.items()}
    # An accelerator does not need these again: four bytes a weight.
    scores = {layer: values.cpu() for layer, values in scores.items()}
    return Start.of(scores, task.maskable, budget)


def _counts_of_magnitude(name: str, task: Task, budget: Budget) -> dict[str, int]:
    """
    Raises:
        ConfigError: for a pattern, which a mask that is refined at its counts would not keep.
    """
    if budget.is_pattern:
        raise ConfigError(
            f"the criterion {name} keeps layer counts, not patterns: replace --allocation {budget.allocation}"
        )
    return budget.counts(magnitude(task.maskable.weights))


def starved_notice(start: Start) -> str | None:
    """A notice if a global threshold nearly empties layers that hold a large part of the network.

    Norms absorb the scale of the weights before them, so magnitudes of different layers may not be comparable.
    """
    overall = Fraction(sum(start.kept.values()), sum(start.sizes.values()))
    starved = [name for name, kept in start.kept.items() if kept < _STARVED * overall * start.sizes[name]]
    if sum(start.sizes[name] for name in starved) < _STARVED_SHARE * sum(start.sizes.values()):
        return None
    return (
        f"note: the allocation leaves {len(starved)} layers, including {starved[0]}, less than a twentieth of the "
        "overall density; --allocation erk allocates by shape instead"
    )


def proportional_scores(criterion: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """scale · c / rms(c) in each layer: keeps the order of the criterion's scores *and* their ratios."""
    scores = {}
    for name, values in criterion.items():
        wide = values.double()  # squares overflow float32 before the values do
        scores[name] = (wide * (scale / wide.square().mean().sqrt().clamp_min(torch.finfo(wide.dtype).tiny))).float()
    return scores


def two_level_scores(masks: MaskSet, low: float) -> dict[str, Tensor]:
    """1 for weights in the criterion's masks, `low` for the others (the paper's warm start, Sec. 4.1)."""
    return {name: torch.where(mask, 1.0, low) for name, mask in masks.items()}


@dataclass(frozen=True)
class _FirstBatches:
    """The first `count` training batches of a seed; read anew each time, so that only one has to be in memory."""

    train: ImageSource
    count: int
    seed: int

    def __iter__(self) -> Iterator[Batch]:
        size, seed = min(_CRITERION_IMAGES, len(self.train)), _CRITERION_SEED + self.seed
        batches = self.train.train_batches(seed=seed, batch_size=size, shard=Shard())
        return itertools.islice(batches, self.count)
