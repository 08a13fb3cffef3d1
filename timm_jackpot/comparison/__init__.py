"""Comparison: masks side by side, and where they agree beyond chance."""

from timm_jackpot.comparison.overlap import LayerOverlap, overlap_per_layer
from timm_jackpot.comparison.run import CompareConfig, compare_masks

__all__ = ["CompareConfig", "LayerOverlap", "compare_masks", "overlap_per_layer"]
