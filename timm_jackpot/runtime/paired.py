"""Two things timed in turn, A B A B …: their ratio holds when the machine's speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """The first over the second: seconds pair by pair, or bytes."""

    median: float
    smallest: float
    largest: float
    n: int
    ms: float | None = None  # median of the first, if it is a time


def paired_ratio(ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int, warmup: int = 1) -> Ratio:
    """Time `ours` and `theirs` in turn, `pairs` times after `warmup` uncounted pairs."""
    timed = paired_seconds(ours, theirs, pairs=pairs, warmup=warmup)
    ratios = spread([first / second for first, second in timed])
    return ratios._replace(ms=1e3 * median(first for first, _ in timed))


def paired_seconds(
    ours: Callable[[], object], theirs: Callable[[], object], *, pairs: int, warmup: int = 1
) -> list[tuple[float, float]]:
    """The seconds of `ours` and `theirs`, pair by pair, after `warmup` uncounted pairs."""
    return [(_seconds(ours), _seconds(theirs)) for _ in range(warmup + pairs)][warmup:]


def spread(ratios: Sequence[float]) -> Ratio:
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
