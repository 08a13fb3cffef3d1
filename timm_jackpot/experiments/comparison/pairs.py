"""All pairs of columns, and their overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from timm_jackpot.experiments.comparison.columns import Column
from timm_jackpot.masks import LayerOverlap, chance_overlap, layer_overlaps, mask_overlap


class Pair(NamedTuple):
    """Overlaps of two columns; `why_not` gives the reason if there are none."""

    a: str
    b: str
    overlap: float | None
    chance: float | None
    layers: dict[str, LayerOverlap]
    why_not: str | None


def pairs_of(columns: Sequence[Column]) -> list[Pair]:
    """All pairs. Masks have an overlap only if they cover the same layers of the same base."""
    return [_pair(a, b) for a, b in itertools.combinations(columns, 2)]


def _pair(a: Column, b: Column) -> Pair:
    if not a.masks or not b.masks:
        return Pair(a.name, b.name, None, None, {}, "one of them is dense")
    if list(a.masks) != list(b.masks) or any(a.masks[name].shape != b.masks[name].shape for name in a.masks):
        return Pair(a.name, b.name, None, None, {}, "different layers are masked")
    if a.weights != b.weights:
        return Pair(a.name, b.name, None, None, {}, "the bases differ")
    overlap, chance = mask_overlap(a.masks, b.masks), chance_overlap(a.masks, b.masks)
    return Pair(a.name, b.name, overlap, chance, layer_overlaps(a.masks, b.masks), None)
