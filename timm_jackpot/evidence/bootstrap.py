"""Confidence intervals: the paired bootstrap over test images (Efron & Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timm_jackpot.evidence.interval import Interval

RESAMPLES = 10_000
_CHUNK = 100  # resamples at a time, as one matrix of image counts
_DECIMALS = 9  # a tie must stay a tie, whatever the order of summation


def paired_intervals(
    correct: Mapping[str, NDArray[np.bool_]],
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[dict[str, Interval], dict[tuple[str, str], Interval]]:
    """Accuracy of every model, and accuracy difference (first − second) of every pair, in percent.

    Each resample draws test images with replacement, the same for all models, so hard images do not widen the interval
    of a difference. For a model with several seeds, it draws seeds with replacement too. The interval runs from the
    2.5th to the 97.5th percentile of the resamples.

    Args:
        correct: model → [seeds, images], whether each prediction was correct.
        seed: of the resampling; the same seed gives the same intervals.
    """
    n = {rows.shape[1] for rows in correct.values()}
    assert len(n) == 1, "every model predicts the same images"
    images = n.pop()
    sampled = _resampled(correct, images, np.random.default_rng(seed), resamples)
    exact = {name: 100 * rows.mean() for name, rows in correct.items()}
    return (
        {name: _interval(exact[name], sampled[name]) for name in correct},
        {(a, b): _interval(exact[a] - exact[b], sampled[a] - sampled[b]) for a, b in pairs},
    )


def _resampled(
    correct: Mapping[str, NDArray[np.bool_]], images: int, generator: np.random.Generator, resamples: int
) -> dict[str, NDArray[np.float64]]:
    """Accuracy of each model in each resample, [resamples]."""
    table = np.concatenate(list(correct.values())).astype(np.float64)
    accuracies = np.empty((resamples, len(table)))
    for first in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - first)
        drawn = [np.bincount(generator.integers(images, size=images), minlength=images) for _ in range(count)]
        accuracies[first : first + count] = np.stack(drawn) @ table.T * (100 / images)
    result, offset = {}, 0
    for name, rows in correct.items():
        seeds = len(rows)
        own = accuracies[:, offset : offset + seeds]
        drawn = generator.integers(seeds, size=(resamples, seeds))
        result[name] = np.take_along_axis(own, drawn, axis=1).mean(axis=1)
        offset += seeds
    return result


def _interval(value: Any, sampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(sampled, [0.025, 0.975])  # the value may lie outside if the distribution is skewed
    return Interval(value=_rounded(value), low=_rounded(min(low, value)), high=_rounded(max(high, value)))


def _rounded(value: Any) -> float:
    return round(float(value), _DECIMALS) + 0.0  # −0.0 is 0.0
