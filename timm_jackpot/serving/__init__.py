"""Serving: many jackpots on one backbone, of which one at a time answers."""

from timm_jackpot.serving.model import JackpotModel

__all__ = ["JackpotModel"]
