"""Masks as plain tensors: mask sets, exact counts, allocation, packing. Knows nothing about models."""

from timm_jackpot.masks.allocation import (
    ALLOCATIONS,
    allocate,
    kept_count,
    parse_overrides,
    parse_sparsity,
    scale_counts,
)
from timm_jackpot.masks.compact import RankedMasks, decode_compact, encode_compact, most_compact_bytes
from timm_jackpot.masks.mask_set import LayerOverlap, MaskSet, chance_overlap, layer_overlaps, mask_overlap
from timm_jackpot.masks.packing import pack, packed_bytes, unpack
from timm_jackpot.masks.selection import group_thresholds, is_n_of_m, keep_largest, keep_n_of_m, threshold_of

__all__ = [
    "ALLOCATIONS",
    "LayerOverlap",
    "MaskSet",
    "RankedMasks",
    "allocate",
    "chance_overlap",
    "decode_compact",
    "encode_compact",
    "group_thresholds",
    "is_n_of_m",
    "keep_largest",
    "keep_n_of_m",
    "kept_count",
    "layer_overlaps",
    "mask_overlap",
    "most_compact_bytes",
    "pack",
    "packed_bytes",
    "parse_overrides",
    "parse_sparsity",
    "scale_counts",
    "threshold_of",
    "unpack",
]
