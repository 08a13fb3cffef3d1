"""The rows of the matrix: searched masks and their controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from timm_jackpot import criteria
from timm_jackpot.artifact import Artifact
from timm_jackpot.base import Base
from timm_jackpot.errors import BaseMismatchError
from timm_jackpot.masks import MaskSet, keep_largest


@dataclass(frozen=True)
class TransferRow:
    """One mask per seed: found on a source, or a control."""

    name: str
    kind: Literal["source", "control"]
    masks: dict[int, MaskSet]  # by seed; empty for the dense base


def transfer_rows(sources: Mapping[str, Mapping[int, Artifact]], base: Base) -> list[TransferRow]:
    """The sources, the dense base, and a random and a magnitude mask for each distinct set of layer counts.

    If the sources have different counts, a control's name tells whose counts it has.

    Args:
        sources: artifacts by name and seed.
        base: the base on which all of them were searched.

    Raises:
        BaseMismatchError: if one of them was searched on other weights.
    """
    for name, artifacts in sources.items():
        for artifact in artifacts.values():
            _check_base(name, artifact, base)
    rows = [
        TransferRow(name, "source", {seed: found.masks_on(base) for seed, found in by.items()})
        for name, by in sources.items()
    ]
    seeds = list(rows[0].masks)
    distinct: dict[str, list[dict[str, int]]] = {}  # first source with these counts → counts by seed
    for row in rows:
        counts = [row.masks[seed].kept_per_layer() for seed in seeds]
        if counts not in distinct.values():
            distinct[row.name] = counts
    rows.append(TransferRow("dense", "control", {seed: MaskSet({}) for seed in seeds}))
    weights = dict(base.model.named_parameters(remove_duplicate=False))
    choices = {"magnitude": lambda masked, seed: criteria.magnitude(masked), "random": criteria.random}
    for name, by_seed in distinct.items():
        for control, choose in choices.items():
            masks = {
                seed: _largest(choose({layer: weights[layer] for layer in kept}, seed=seed), kept)
                for seed, kept in zip(seeds, by_seed, strict=True)
            }
            rows.append(TransferRow(f"{control} (as {name})" if len(distinct) > 1 else control, "control", masks))
    return rows


def _largest(scores: Mapping[str, Tensor], kept: Mapping[str, int]) -> MaskSet:
    return MaskSet({name: keep_largest(values, kept[name]) for name, values in scores.items()})


def _check_base(name: str, artifact: Artifact, base: Base) -> None:
    for layer in artifact.config.layers:
        found = base.tensors.get(layer.name)
        if found is None or found.sha256 != layer.sha256:
            raise BaseMismatchError(
                f"the mask of {name} ({artifact.folder}) was found on another base: {layer.name} differs first; "
                "choose another --output"
            )
