"""Scores on a model, and how many weights they keep at each step: the core of every mask search."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from torch import nn

from timm_jackpot.adapter import attach
from timm_jackpot.masks import MaskSet, scale_counts
from timm_jackpot.methods.search_settings import ScoreSettings
from timm_jackpot.methods.start import Start, proportional_scores, two_level_scores
from timm_jackpot.training import cubic_ramp


@dataclass(frozen=True)
class Schedule:
    """How many weights each layer keeps at each step, and when the thresholds are recomputed."""

    start: Start
    settings: ScoreSettings
    steps: int

    @property
    def _fraction(self) -> float:
        return self.settings.schedule_fraction if self.settings.schedule == "cubic" else 0.0

    def counts(self, step: int) -> dict[str, int]:
        share = cubic_ramp(step, self.steps, fraction=self._fraction, start=self.settings.schedule_start)
        return scale_counts(self.start.sizes, self.start.kept, share)

    def last_refresh(self, step: int) -> int:
        """The latest step, up to and including this one, before which thresholds are recomputed."""
        regular = step - step % self.settings.refresh_interval
        ramp_end = ceil(self._fraction * self.steps)  # the final counts apply from here on, whatever the interval
        return ramp_end if regular < ramp_end <= step else regular


class ScoreTraining:
    """Attaches initial scores to a model and updates their thresholds along the schedule.

    Args:
        steps: total number of optimizer steps; 0: the final sparsity applies from the start.
        first_step: the first step to run; above 0 in a resumed run.
    """

    def __init__(
        self, model: nn.Module, start: Start, settings: ScoreSettings, *, steps: int, first_step: int = 0
    ) -> None:
        self._start, self._schedule = start, Schedule(start, settings, steps)
        if settings.start == "two-level":
            scores = two_level_scores(start.masks, settings.start_low)
        else:
            scores = proportional_scores(start.scores, settings.start_scale)
        kept = self._counts_in(max(0, first_step - 1))
        self.adapter = attach(model, scores, kept, n_of_m=start.n_of_m, filters=start.filters)

    def before_step(self, step: int) -> None:
        """Recompute the thresholds if they are due before this step."""
        if step and step == self._schedule.last_refresh(step):
            self.adapter.refresh(self._schedule.counts(step))

    def resume_after(self, steps: int) -> None:
        """Recompute the thresholds of loaded scores, for the counts after this many steps."""
        self.adapter.refresh(self._counts_in(steps))

    def _counts_in(self, step: int) -> dict[str, int]:
        return self._schedule.counts(self._schedule.last_refresh(step))

    @property
    def sparsity(self) -> float:
        """The current sparsity, which the schedule raises to the final one."""
        return 1 - sum(layer.kept for layer in self.adapter.values()) / sum(self._start.sizes.values())

    def final_masks(self) -> MaskSet:
        """The masks of the current scores at the final counts, wherever the schedule is."""
        masks = self.adapter.masks(self._start.kept)
        assert masks.kept_per_layer() == self._start.kept
        return masks
