"""Criteria: plain functions from weights to one initial score per weight (larger = more worth keeping)."""

from timm_jackpot.criteria.grasp import grasp
from timm_jackpot.criteria.magnitude import magnitude
from timm_jackpot.criteria.obd import obd
from timm_jackpot.criteria.random import random
from timm_jackpot.criteria.reconstruction import reconstruction
from timm_jackpot.criteria.registry import Criterion, criterion, criterion_names, register_criterion
from timm_jackpot.criteria.snip import snip
from timm_jackpot.criteria.synflow import synflow

__all__ = [
    "Criterion",
    "criterion",
    "criterion_names",
    "grasp",
    "magnitude",
    "obd",
    "random",
    "reconstruction",
    "register_criterion",
    "snip",
    "synflow",
]
