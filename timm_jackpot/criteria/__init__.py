"""Criteria: plain functions, weights in, one initial score per weight out (larger = more worth keeping)."""

from timm_jackpot.criteria.magnitude import magnitude
from timm_jackpot.criteria.random import random

__all__ = ["magnitude", "random"]
