"""Two things timed in turn, A B A B …: their ratio holds when the machine's speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """Time of the first over time of the second, pair by pair."""

    median: float
    smallest: float
    largest: float
    n: int


def paired_ratio(ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int, warmup: int = 1) -> Ratio:
    """Time `ours` and `theirs` in turn, `pairs` times after `warmup` uncounted pairs."""
    ratios = []
    for i in range(warmup + pairs):
        first, second = _seconds(ours), _seconds(theirs)
        if i >= warmup:
            ratios.append(first / second)
    return Ratio(median(ratios), min(ratios), max(ratios), len(ratios))


def _seconds(call: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
