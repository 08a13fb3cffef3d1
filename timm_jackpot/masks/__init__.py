"""Masks as plain tensors: sets of them, exact counts, and their bytes. Knows no models."""

from timm_jackpot.masks.allocation import ALLOCATIONS, allocate, kept_count, parse_sparsity, scale_counts
from timm_jackpot.masks.binarise import keep_largest
from timm_jackpot.masks.mask_set import MaskSet, mask_overlap
from timm_jackpot.masks.packing import pack, packed_bytes, unpack

__all__ = [
    "ALLOCATIONS",
    "MaskSet",
    "allocate",
    "keep_largest",
    "kept_count",
    "mask_overlap",
    "pack",
    "packed_bytes",
    "parse_sparsity",
    "scale_counts",
    "unpack",
]
