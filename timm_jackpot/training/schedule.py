"""Schedules as pure functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi


def cosine(step: int, steps: int, *, peak: float) -> float:
    """Half a cosine from `peak` to 0 at `steps` (Loshchilov & Hutter 2017)."""
    return peak * 0.5 * (1 + cos(pi * step / max(1, steps)))


def step_decay(step: int, steps: int, *, peak: float, milestones: Sequence[float], decay: float) -> float:
    """`peak`, multiplied by `decay` at each milestone, a fraction of the run."""
    return peak * decay ** sum(step >= round(milestone * steps) for milestone in milestones)


def cubic_ramp(step: int, steps: int, *, fraction: float, start: float = 0.0) -> float:
    """Share of the final sparsity at `step`: 1 − (1 − start) · (1 − t)³, t from 0 to 1 over `fraction` of the steps.

    The gradual pruning schedule of Zhu & Gupta 2017; `fraction` 0 is a constant sparsity.
    """
    ramp = fraction * steps
    if step >= ramp:
        return 1.0
    return 1 - (1 - start) * (1 - step / ramp) ** 3
