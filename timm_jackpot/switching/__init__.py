"""Many jackpots on one backbone: the base in memory once, and one working copy that wears a mask at a time."""

from timm_jackpot.switching.model import JackpotModel

__all__ = ["JackpotModel"]
