"""Comparison: masks side by side, and where they overlap more than by chance."""

from timm_jackpot.experiments.comparison.run import CompareConfig, compare_masks

__all__ = ["CompareConfig", "compare_masks"]
