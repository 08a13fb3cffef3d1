"""Serving: many jackpots on one backbone, one of them active at a time."""

from timm_jackpot.serving.model import JackpotModel

__all__ = ["JackpotModel"]
