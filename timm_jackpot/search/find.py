"""The search itself (Eq. 8): train scores, keep weights."""

from __future__ import annotations

from math import ceil, isnan

from accelerate import Accelerator
from torch import nn

from timm_jackpot.adapter import attach, detach
from timm_jackpot.base import norm_layers
from timm_jackpot.data import Data
from timm_jackpot.errors import TrainingError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.masks import MaskSet, scale_counts
from timm_jackpot.processes import same_everywhere
from timm_jackpot.search.compare import calibrate
from timm_jackpot.search.config import SearchConfig
from timm_jackpot.search.equalise import equalise_gradients
from timm_jackpot.search.life import Life
from timm_jackpot.search.start import Start, first_scores
from timm_jackpot.search.state import SearchState
from timm_jackpot.training import (
    Mixer,
    Objective,
    Record,
    average_norm_statistics,
    cosine,
    cubic_ramp,
    fit,
    make_optimizer,
)


def find_masks(
    model: nn.Module,
    start: Start,
    data: Data,
    config: SearchConfig,
    *,
    steps: int,
    trained: list[nn.Parameter],
    teacher: nn.Module | None,
    mix: Mixer | None = None,
    life: Life | None = None,
    accelerator: Accelerator,
    record: Record,
) -> MaskSet:
    """Search masks in `model`, which must be on the accelerator's device with everything else frozen.

    Args:
        trained: parameters that move besides the scores (a head, the affine part of norms).
        teacher: the dense base, to distil from.
        mix: as in `fit`.
        life: where the state is kept, and an earlier one to go on from.

    Returns:
        The final masks, exactly `start.kept` of each layer, the same on every rank. The model is plain again,
        its maskable weights untouched, its norm statistics and `trained` where the search left them.
    """
    fraction = config.schedule_fraction if config.schedule == "cubic" else 0.0
    ramp_end = ceil(fraction * steps)  # from here on the final counts hold, whatever the interval
    first_step = life.resumed.step if life is not None and life.resumed is not None else 0

    def counts(step: int) -> dict[str, int]:
        share = cubic_ramp(step, steps, fraction=fraction, start=config.schedule_start)
        return scale_counts(start.sizes, start.kept, share)

    def last_refresh(step: int) -> int:
        regular = step - step % config.refresh_interval
        return ramp_end if regular < ramp_end <= step else regular

    kept = counts(last_refresh(max(0, first_step - 1)))
    adapter = attach(model, first_scores(config, start), kept, n_of_m=start.n_of_m)

    def before_step(step: int) -> None:
        if step and step == last_refresh(step):
            adapter.refresh(counts(step))
        if data.val is not None and step and step % max(1, steps // 4) == 0:
            _validate(model, data, config, accelerator, record, step)

    def check_scores() -> None:
        sums = adapter.score_sums()
        if any(map(isnan, sums)):
            raise TrainingError(f"scores are not numbers any more: lower --lr (now {config.lr:g})")
        if accelerator.num_processes > 1:
            same_everywhere(str(sums), accelerator, "the sum of scores")

    def figures() -> dict[str, float]:
        check_scores()
        return {"sparsity": 1 - sum(layer.kept for layer in adapter.values()) / sum(start.sizes.values())}

    optimizer = make_optimizer(config, [*adapter.scores(), *trained])
    if config.equalise_layers:
        equalise_gradients(optimizer, adapter.scores())
    state = SearchState(model, adapter, trained, optimizer, accelerator)
    if life is not None and life.resumed is not None:
        state.restore(life.resumed.tensors)
    if steps > first_step:
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
            after_step=lambda step: life.after_step(step, steps, state) if life is not None else None,
            first_step=first_step,
            figures=figures,
            mix=mix,
            keep_in_eval=[layer for _, layer in norm_layers(model)] if config.freeze_norm_statistics else (),
            torchcompile=config.torchcompile,
            channels_last=config.channels_last,
        )
    if life is not None:
        life.after_all_steps()
    check_scores()
    adapter.refresh(start.kept)
    masks = adapter.masks()
    detach(model)
    # For what is measured below: the final masks themselves, which a threshold is not where scores are equal.
    attach(model, {name: mask.float() for name, mask in masks.items()}, start.kept)
    if config.recalibrate_batches and not config.freeze_norm_statistics:
        images = config.recalibrate_batches * config.batch_size * accelerator.num_processes
        calibrate(model, data, config.batch_size, accelerator, images=images)
    else:
        average_norm_statistics(model, accelerator)
    if data.val is not None:
        _validate(model, data, config, accelerator, record, steps)
    assert masks.kept_per_layer() == start.kept
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
