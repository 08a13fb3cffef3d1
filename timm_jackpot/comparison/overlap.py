"""Overlap layer by layer, with what chance gives beside it."""

from __future__ import annotations

from typing import NamedTuple

from timm_jackpot.masks import MaskSet, chance_overlap, mask_overlap


class LayerOverlap(NamedTuple):
    """Fractions of a layer's elements."""

    overlap: float  # on which two masks agree (Eq. 7)
    chance: float  # on which random masks of their densities are expected to: d_a·d_b + (1 − d_a)(1 − d_b)


def overlap_per_layer(a: MaskSet, b: MaskSet) -> dict[str, LayerOverlap]:
    """`mask_overlap` and `chance_overlap` of each layer by itself; their means weighted by size are those of all.

    Raises:
        ValueError: if the two do not cover the same weights, or one of them covers an empty one.
    """
    if list(a) != list(b):
        raise ValueError("an overlap needs two mask sets over the same weights")
    layers = {name: (MaskSet({name: mask}), MaskSet({name: b[name]})) for name, mask in a.items()}
    return {name: LayerOverlap(mask_overlap(x, y), chance_overlap(x, y)) for name, (x, y) in layers.items()}
