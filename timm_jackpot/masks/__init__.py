"""Masks as plain tensors: mask sets, exact counts, allocation, packing. Knows nothing about models."""

from timm_jackpot.masks.allocation import (
    ALLOCATIONS,
    allocate,
    kept_count,
    kept_filters,
    parse_overrides,
    parse_sparsity,
    scale_counts,
)
from timm_jackpot.masks.compact import RankedMasks, decode_compact, encode_compact, most_compact_bytes
from timm_jackpot.masks.mask_set import LayerOverlap, MaskSet, chance_overlap, layer_overlaps, mask_overlap
from timm_jackpot.masks.packing import pack, packed_bytes, unpack
from timm_jackpot.masks.selection import (
    filter_sums,
    group_thresholds,
    is_n_of_m,
    keep_largest,
    keep_n_of_m,
    keeps_filters,
    threshold_of,
    thresholds_of_shards,
)

__all__ = [
    "ALLOCATIONS",
    "LayerOverlap",
    "MaskSet",
    "RankedMasks",
    "allocate",
    "chance_overlap",
    "decode_compact",
    "encode_compact",
    "filter_sums",
    "group_thresholds",
    "is_n_of_m",
    "keep_largest",
    "keep_n_of_m",
    "keeps_filters",
    "kept_count",
    "kept_filters",
    "layer_overlaps",
    "mask_overlap",
    "most_compact_bytes",
    "pack",
    "packed_bytes",
    "parse_overrides",
    "parse_sparsity",
    "scale_counts",
    "threshold_of",
    "thresholds_of_shards",
    "unpack",
]
