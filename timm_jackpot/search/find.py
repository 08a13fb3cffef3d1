"""The search itself (Eq. 8): train scores, keep weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_jackpot import criteria
from timm_jackpot.adapter import attach, detach
from timm_jackpot.base import Maskable
from timm_jackpot.data import Data
from timm_jackpot.errors import TrainingError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.masks import MaskSet, allocate, keep_largest, scale_counts
from timm_jackpot.processes import same_everywhere
from timm_jackpot.search.config import SearchConfig
from timm_jackpot.search.equalise import equalise_gradients
from timm_jackpot.search.scores import proportional_scores, two_level_scores
from timm_jackpot.training import (
    Objective,
    Record,
    average_norm_statistics,
    cosine,
    cubic_ramp,
    fit,
    frozen_teacher,
    make_optimizer,
)


@dataclass(frozen=True)
class Start:
    """Where a search starts: the criterion's values, the final count of every layer, the one-shot mask."""

    criterion: dict[str, Tensor]
    kept: dict[str, int]

    @property
    def masks(self) -> MaskSet:
        """What the criterion alone would keep, at the same counts."""
        return MaskSet({name: keep_largest(values, self.kept[name]) for name, values in self.criterion.items()})


def start_of(config: SearchConfig, maskable: Maskable) -> Start:
    """Evaluate the criterion and share out the budget."""
    if config.criterion == "magnitude":
        values = criteria.magnitude(maskable.weights)
    else:
        values = criteria.random(maskable.weights, seed=config.seed)
    # One weight at least: a global threshold can empty a layer, and with it a network without shortcuts.
    return Start(values, allocate(config.allocation, values, config.sparsity, minimum=1))


def find_masks(
    model: nn.Module,
    start: Start,
    data: Data,
    config: SearchConfig,
    *,
    steps: int,
    trained: list[nn.Parameter],
    accelerator: Accelerator,
    record: Record,
) -> MaskSet:
    """Search masks in `model`, which must be on the accelerator's device with everything else frozen.

    Args:
        trained: parameters that move besides the scores (a new head).

    Returns:
        The final masks, exactly `start.kept` of each layer, the same on every rank. The model is plain again,
        its maskable weights untouched, its norm statistics and `trained` where the search left them.
    """
    # Beside a new head the base has no logits worth imitating.
    teacher = frozen_teacher(model) if config.distill_weight and not trained else None
    if config.start == "two-level":
        scores = two_level_scores(start.criterion, start.kept, config.start_low)
    else:
        scores = proportional_scores(start.criterion, config.start_scale)
    sizes = {name: values.numel() for name, values in start.criterion.items()}
    fraction = config.schedule_fraction if config.schedule == "cubic" else 0.0

    ramp_end = ceil(fraction * steps)  # from here on the final counts hold, whatever the interval

    def counts(step: int) -> dict[str, int]:
        return scale_counts(sizes, start.kept, cubic_ramp(step, steps, fraction=fraction))

    adapter = attach(model, scores, counts(0))
    churn = torch.zeros((), dtype=torch.int64)
    expected = sum(counts(0).values())

    def before_step(step: int) -> None:
        nonlocal churn, expected
        if step and (step % config.refresh_interval == 0 or step == ramp_end):
            churn = adapter.refresh(counts(step))
            expected = sum(counts(step).values())
        if data.val is not None and step and step % max(1, steps // 4) == 0:
            _validate(model, data, config, accelerator, record, step)

    def figures() -> dict[str, float]:
        kept = adapter.masks().kept
        if kept != expected:  # NaN is neither above nor at a threshold
            raise TrainingError(f"scores are not numbers any more: lower --lr (now {config.lr:g})")
        total = sum(sizes.values())
        return {"sparsity": 1 - kept / total, "churn": int(churn) / total}

    optimizer = make_optimizer(config, [*adapter.scores(), *trained])
    if config.equalise_layers:
        equalise_gradients(optimizer, adapter.scores())
    if steps:
        fit(
            accelerator=accelerator,
            model=model,
            optimizer=optimizer,
            objective=Objective(config.label_smoothing, teacher, config.distill_weight, config.temperature),
            train=data.train,
            batch_size=config.batch_size,
            seed=config.seed,
            steps=steps,
            lr_at=lambda step: cosine(step, steps, peak=config.lr),
            record=record,
            title="search",
            before_step=before_step,
            figures=figures,
            torchcompile=config.torchcompile,
            channels_last=config.channels_last,
        )
    adapter.refresh(start.kept)
    average_norm_statistics(model, accelerator)
    if data.val is not None:
        _validate(model, data, config, accelerator, record, steps)
    masks = adapter.masks()
    if masks.kept_per_layer() != start.kept:
        raise TrainingError(f"scores are not numbers any more: lower --lr (now {config.lr:g})")
    record.write("mask_hashes", by_rank=same_everywhere(masks.hash(), accelerator, "the mask"))
    detach(model)
    return masks


def _validate(
    model: nn.Module, data: Data, config: SearchConfig, accelerator: Accelerator, record: Record, step: int
) -> None:
    assert data.val is not None
    average_norm_statistics(model, accelerator)
    accuracy = evaluate_accuracy(model, data.val, batch_size=config.batch_size, accelerator=accelerator)
    record.write("validation", step=step, top1=accuracy.top1, n=accuracy.n)
