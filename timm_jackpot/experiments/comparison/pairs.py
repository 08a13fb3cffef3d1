"""Every two columns, as far as they can be compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from timm_jackpot.experiments.comparison.columns import Column
from timm_jackpot.masks import LayerOverlap, chance_overlap, layer_overlaps, mask_overlap


class Pair(NamedTuple):
    """Overlaps of two columns; where there are none, `why_not` says so."""

    a: str
    b: str
    overlap: float | None
    chance: float | None
    layers: dict[str, LayerOverlap]
    why_not: str | None


def pairs_of(columns: Sequence[Column]) -> list[Pair]:
    """All pairs. Masks over different weights have no overlap: of another base, or of other layers of the same."""
    return [_pair(a, b) for a, b in itertools.combinations(columns, 2)]


def _pair(a: Column, b: Column) -> Pair:
    if not a.masks or not b.masks:
        return Pair(a.name, b.name, None, None, {}, "one of them is dense")
    if list(a.masks) != list(b.masks) or any(a.masks[name].shape != b.masks[name].shape for name in a.masks):
        return Pair(a.name, b.name, None, None, {}, "other layers are masked")
    if a.weights != b.weights:
        return Pair(a.name, b.name, None, None, {}, "the bases differ")
    overlap, chance = mask_overlap(a.masks, b.masks), chance_overlap(a.masks, b.masks)
    return Pair(a.name, b.name, overlap, chance, layer_overlaps(a.masks, b.masks), None)
