"""Schedules as pure functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

from math import cos, pi


def cosine(step: int, steps: int, *, peak: float, warmup: int = 0) -> float:
    """Half a cosine from `peak` at the end of a linear warm-up to 0 at `steps` (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))


def cubic_ramp(step: int, steps: int, *, fraction: float) -> float:
    """Share of the final sparsity at `step`: 1 − (1 − t)³, t from 0 to 1 over the first `fraction` of steps.

    The gradual pruning schedule of Zhu & Gupta 2017; `fraction` 0 is a constant sparsity.
    """
    ramp = fraction * steps
    if step >= ramp:
        return 1.0
    return 1 - (1 - step / ramp) ** 3
