"""Where a search starts: the criterion's values, the budget shared out, the first scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from timm_jackpot import criteria
from timm_jackpot.base import Maskable
from timm_jackpot.data import Batch, Data
from timm_jackpot.masks import MaskSet, allocate, keep_largest, keep_n_of_m, parse_overrides
from timm_jackpot.processes import Shard
from timm_jackpot.search.config import SearchConfig

_CRITERION_IMAGES = 256  # images of one criterion batch, as in the papers of SNIP and GraSP
_CRITERION_SEED = 256
_STARVED, _STARVED_SHARE = Fraction(1, 20), Fraction(1, 10)


@dataclass(frozen=True)
class Start:
    """The criterion's values, the final count of every layer, and the N:M pattern if there is one."""

    criterion: dict[str, Tensor]
    kept: dict[str, int]
    n_of_m: tuple[int, int] | None = None

    @property
    def masks(self) -> MaskSet:
        """What the criterion alone would keep, at the same counts."""
        if self.n_of_m is not None:
            return MaskSet({name: keep_n_of_m(values, *self.n_of_m) for name, values in self.criterion.items()})
        return MaskSet({name: keep_largest(values, self.kept[name]) for name, values in self.criterion.items()})

    @property
    def sizes(self) -> dict[str, int]:
        return {name: values.numel() for name, values in self.criterion.items()}


def start_of(config: SearchConfig, maskable: Maskable, model: nn.Module, data: Data, accelerator: Accelerator) -> Start:
    """Evaluate the criterion and share out the budget; the same on every rank.

    Raises:
        ConfigError: for floors, overrides or patterns of `config` that cannot be kept.
    """
    values = _criterion_values(config, maskable.weights, model, data)
    # Every rank has read the same images, but kernels need not round alike everywhere.
    if accelerator.num_processes > 1:
        values = {name: cast(Tensor, broadcast(v)) for name, v in values.items()}
    return Start(values, _counts(config, values), config.n_of_m)


def starved_notice(start: Start) -> str | None:
    """A word where the global threshold all but empties layers that hold much of the network.

    Norms absorb the scale of the weights before them, so that magnitudes of two layers need not be comparable.
    """
    overall = Fraction(sum(start.kept.values()), sum(start.sizes.values()))
    starved = [name for name, kept in start.kept.items() if kept < _STARVED * overall * start.sizes[name]]
    if sum(start.sizes[name] for name in starved) < _STARVED_SHARE * sum(start.sizes.values()):
        return None
    return (
        f"note: the allocation leaves {len(starved)} layers, {starved[0]} among them, less than a twentieth of the "
        "density of the whole: --allocation erk shares it out by shape"
    )


def first_scores(config: SearchConfig, start: Start) -> dict[str, Tensor]:
    """The scores that a search starts from."""
    if config.start == "two-level":
        return two_level_scores(start.masks, config.start_low)
    return proportional_scores(start.criterion, config.start_scale)


def proportional_scores(criterion: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """scale · c / rms(c), layer by layer: the criterion's order *and* its distances."""
    scores = {}
    for name, values in criterion.items():
        wide = values.double()  # squares leave float32's range before values do
        scores[name] = (wide * (scale / wide.square().mean().sqrt().clamp_min(torch.finfo(wide.dtype).tiny))).float()
    return scores


def two_level_scores(masks: MaskSet, low: float) -> dict[str, Tensor]:
    """1 for what the criterion's masks keep, `low` for the others (the paper's warm start, Sec. 4.1)."""
    return {name: torch.where(mask, 1.0, low) for name, mask in masks.items()}


def _criterion_values(
    config: SearchConfig, weights: Mapping[str, nn.Parameter], model: nn.Module, data: Data
) -> dict[str, Tensor]:
    match config.criterion:
        case "magnitude":
            return criteria.magnitude(weights)
        case "random":
            return criteria.random(weights, seed=config.seed)
        case "synflow":
            return criteria.synflow(model, weights, data.config["input_size"])
        case "snip":
            return criteria.snip(model, weights, _batches(config, data))
        case "grasp":
            return criteria.grasp(model, weights, _batches(config, data))
        case "obd":
            return criteria.obd(model, weights, _batches(config, data), seed=config.seed)


def _batches(config: SearchConfig, data: Data) -> list[Batch]:
    size = min(_CRITERION_IMAGES, len(data.train))
    seed = _CRITERION_SEED + config.seed
    epochs = (
        data.train.train_batches(seed=seed, epoch=epoch, batch_size=size, shard=Shard()) for epoch in itertools.count()
    )
    return list(itertools.islice(itertools.chain.from_iterable(epochs), config.criterion_batches))


def _counts(config: SearchConfig, values: Mapping[str, Tensor]) -> dict[str, int]:
    if config.n_of_m is not None:
        n, m = config.n_of_m
        return {name: v.numel() // m * n for name, v in values.items()}
    # One weight at least: a global threshold can empty a layer, and with it a network without shortcuts.
    return allocate(
        config.allocation,
        values,
        config.sparsity,
        minimum=1,
        min_density=config.min_density,
        overrides=parse_overrides(config.layer_sparsity, values),
    )
