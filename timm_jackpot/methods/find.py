"""The search itself (Eq. 8 of Lottery Jackpots): train scores, keep weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isnan

from torch import nn

from timm_jackpot.adapter import ScoreAdapter, attach, detach
from timm_jackpot.base import norm_layers
from timm_jackpot.errors import TrainingError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.masks import MaskSet, scale_counts
from timm_jackpot.methods.equalise import equalise_gradients
from timm_jackpot.methods.search_settings import SearchSettings
from timm_jackpot.methods.search_state import SearchState
from timm_jackpot.methods.start import Start, proportional_scores, two_level_scores
from timm_jackpot.methods.task import Task
from timm_jackpot.runtime.processes import same_everywhere
from timm_jackpot.training import (
    Objective,
    average_norm_statistics,
    cosine,
    cubic_ramp,
    fit,
    make_mixer,
    make_optimizer,
    recalibrate,
)


@dataclass(frozen=True)
class Schedule:
    """How many weights each layer keeps at each step, and when the thresholds follow."""

    start: Start
    settings: SearchSettings
    steps: int

    @property
    def _fraction(self) -> float:
        return self.settings.schedule_fraction if self.settings.schedule == "cubic" else 0.0

    def counts(self, step: int) -> dict[str, int]:
        share = cubic_ramp(step, self.steps, fraction=self._fraction, start=self.settings.schedule_start)
        return scale_counts(self.start.sizes, self.start.kept, share)

    def last_refresh(self, step: int) -> int:
        """The latest step, up to this one, before which thresholds are recomputed."""
        regular = step - step % self.settings.refresh_interval
        ramp_end = ceil(self._fraction * self.steps)  # from here on the final counts hold, whatever the interval
        return ramp_end if regular < ramp_end <= step else regular


def find_masks(
    model: nn.Module,
    start: Start,
    task: Task,
    settings: SearchSettings,
    *,
    steps: int,
    seed: int,
    trained: list[nn.Parameter],
    teacher: nn.Module | None,
) -> MaskSet:
    """Search masks in `model`, a working copy of the task's base on the accelerator's device.

    Args:
        trained: parameters that move besides the scores (a head, the affine part of norms).
        teacher: the dense base, to distil from.

    Returns:
        The final masks, exactly `start.kept` of each layer, the same on every rank. The model is plain again,
        its maskable weights untouched, its norm statistics and `trained` where the search left them.
    """
    schedule, accelerator, record = Schedule(start, settings, steps), task.accelerator, task.record
    resumed = task.state.resumed if task.state is not None else None
    first_step = resumed.step if resumed is not None else 0
    if settings.start == "two-level":
        scores = two_level_scores(start.masks, settings.start_low)
    else:
        scores = proportional_scores(start.criterion, settings.start_scale)
    kept = schedule.counts(schedule.last_refresh(max(0, first_step - 1)))
    adapter = attach(model, scores, kept, n_of_m=start.n_of_m)

    def before_step(step: int) -> None:
        if step and step == schedule.last_refresh(step):
            adapter.refresh(schedule.counts(step))
        if step and step % max(1, steps // 4) == 0:
            _validate(model, task, step)

    def figures() -> dict[str, float]:
        _check_scores(adapter, task, settings)
        return {"sparsity": 1 - sum(layer.kept for layer in adapter.values()) / sum(start.sizes.values())}

    optimizer = make_optimizer(settings, [*adapter.scores(), *trained])
    if settings.equalise_layers:
        equalise_gradients(optimizer, adapter.scores())
    state = SearchState(model, adapter, trained, optimizer, accelerator)
    if resumed is not None:
        state.restore(resumed.tensors)
    if steps > first_step:
        fit(
            accelerator=accelerator,
            model=model,
            optimizer=optimizer,
            objective=Objective(settings.label_smoothing, teacher, settings.distill_weight, settings.temperature),
            train=task.data.train,
            batch_size=task.batch_size,
            seed=seed,
            steps=steps,
            lr_at=lambda step: cosine(step, steps, peak=settings.lr),
            record=record,
            title="search",
            before_step=before_step,
            after_step=lambda step: task.state.after_step(step, steps, state.tensors) if task.state else None,
            first_step=first_step,
            figures=figures,
            mix=make_mixer(settings, task.data.num_classes, task.batch_size, seed),
            keep_in_eval=[layer for _, layer in norm_layers(model)] if settings.freeze_norm_statistics else (),
            torchcompile=task.run.torchcompile,
            channels_last=task.run.channels_last,
        )
    if task.state is not None:
        task.state.after_all_steps()
    _check_scores(adapter, task, settings)
    adapter.refresh(start.kept)
    masks = adapter.masks()
    assert masks.kept_per_layer() == start.kept
    detach(model)
    # For what is measured below: the final masks themselves, which a threshold is not where scores are equal.
    attach(model, {name: mask.float() for name, mask in masks.items()}, start.kept)
    if settings.recalibrate_batches and not settings.freeze_norm_statistics:
        images = settings.recalibrate_batches * task.batch_size * accelerator.num_processes
        recalibrate(model, task.data, task.batch_size, accelerator, images=images)
    else:
        average_norm_statistics(model, accelerator)
    _validate(model, task, steps)
    record.write("mask_hashes", by_rank=same_everywhere(masks.hash(), accelerator, "the mask"))
    detach(model)
    return masks


def _check_scores(adapter: ScoreAdapter, task: Task, settings: SearchSettings) -> None:
    sums = adapter.score_sums()
    if any(map(isnan, sums)):
        raise TrainingError(f"scores are not numbers any more: lower --lr (now {settings.lr:g})")
    if task.accelerator.num_processes > 1:
        same_everywhere(str(sums), task.accelerator, "the sum of scores")


def _validate(model: nn.Module, task: Task, step: int) -> None:
    if task.data.val is None:
        return
    average_norm_statistics(model, task.accelerator)
    accuracy = evaluate_accuracy(model, task.data.val, batch_size=task.batch_size, accelerator=task.accelerator)
    task.record.write("validation", step=step, top1=accuracy.top1, n=accuracy.n)
