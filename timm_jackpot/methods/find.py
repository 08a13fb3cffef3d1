"""The search itself (Eq. 8 of Lottery Jackpots): train the scores, leave the weights unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isnan

import torch
from torch import Tensor, nn

from timm_jackpot.adapter import ScoreAdapter, attach, detach, silence
from timm_jackpot.base import shared_copy
from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.equalise import NEW_HEAD_RMS, equalise_gradients
from timm_jackpot.methods.score_training import ScoreTraining
from timm_jackpot.methods.search_settings import SearchSettings
from timm_jackpot.methods.start import Start
from timm_jackpot.methods.task import Task
from timm_jackpot.methods.train import train_network
from timm_jackpot.runtime.processes import same_everywhere
from timm_jackpot.runtime.sharding import shard_trained, splits_trained, whole
from timm_jackpot.training import Objective, average_norm_statistics, recalibrate


def find_masks(
    model: nn.Module,
    start: Start,
    task: Task,
    settings: SearchSettings,
    *,
    steps: int,
    seed: int,
    trained: list[nn.Parameter],
    head: list[nn.Parameter],
    teacher: nn.Module | None,
) -> MaskSet:
    """Search for masks in `model`, a working copy of the task's base on the accelerator's device.

    Args:
        trained: parameters to train along with the scores (the affine parameters of norms).
        head: parameters to train at the head's learning rate.
        teacher: the dense base to distill from.

    Returns:
        The final masks, which keep exactly `start.kept` weights of each layer and are the same on every rank. The model
        is plain again, its maskable weights unchanged; norm statistics, `trained` and `head` are as the search left
        them.
    """
    accelerator, record = task.accelerator, task.record
    resumed = task.state.resumed if task.state is not None else None
    first_step = resumed.step if resumed is not None else 0
    # What is sharded cannot be made whole again: a copy is, which shares everything else with `model`.
    searched = copy_to_shard(model, start, task) if splits_trained(accelerator) else model
    training = ScoreTraining(searched, start, settings, steps=steps, first_step=first_step)
    adapter = training.adapter
    unsharded = [*trained, *head]
    if searched is not model:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        shard_trained(searched, accelerator)
        sharded = dict(searched.named_parameters())
        trained, head = ([sharded[names[id(parameter)]] for parameter in part] for part in (trained, head))

    @torch.no_grad()
    def gather() -> None:
        for parameter, shard in zip(unsharded, [*trained, *head], strict=True):
            parameter.copy_(whole(shard))

    def before_step(step: int) -> None:
        training.before_step(step)
        if step and step % max(1, steps // settings.validations) == 0:
            if searched is model:
                _validate(model, task, step)
            else:
                gather()
                with _masked(model, adapter.masks()):
                    _validate(model, task, step)

    def figures() -> dict[str, float]:
        _check_scores(adapter, task, settings)
        return {"sparsity": training.sparsity}

    def equalise(optimizer: torch.optim.Optimizer) -> None:
        equalise_gradients(optimizer, adapter.scores(), max_rms=NEW_HEAD_RMS if head else inf)

    train_network(
        searched,
        task,
        settings,
        rest=[*adapter.scores(), *trained],
        head=head,
        steps=steps,
        seed=seed,
        title="search",
        named=lambda: _changing(adapter, [*trained, *head]),
        objective=Objective(settings.label_smoothing, teacher, settings.distill_weight, settings.temperature),
        frozen_statistics=settings.freeze_norm_statistics,
        prepare=equalise if settings.equalise_layers else lambda optimizer: None,
        before_step=before_step,
        figures=figures,
    )
    _check_scores(adapter, task, settings)
    masks = training.final_masks()
    if searched is model:
        detach(model)
    else:
        gather()
    if start.filters is not None:
        silence(model, masks, start.filters)
    with _masked(model, masks):
        if settings.recalibrate_batches and not settings.freeze_norm_statistics:
            images = settings.recalibrate_batches * task.batch_size * accelerator.num_processes
            recalibrate(model, task.data, task.batch_size, accelerator, images=images)
        else:
            average_norm_statistics(model, accelerator)
        _validate(model, task, steps)
    record.write("mask_hashes", by_rank=same_everywhere(masks.hash(), accelerator, "the mask"))
    return masks


@contextmanager
def _masked(model: nn.Module, masks: MaskSet) -> Iterator[None]:
    """A plain model under exact masks, for measurements: the threshold of a search keeps more where scores are tied."""
    attach(model, {name: mask.float() for name, mask in masks.items()}, masks.kept_per_layer())
    try:
        yield
    finally:
        detach(model)


def copy_to_shard(model: nn.Module, start: Start, task: Task) -> nn.Module:
    """
    Raises:
        ConfigError: for what has not been made to work on shards.
    """
    if start.n_of_m is not None or start.filters is not None:
        raise ConfigError("FSDP shards the scores of single weights only: choose another --allocation")
    if task.run.torchcompile:
        raise ConfigError("FSDP and --torchcompile do not go together here: leave one of them out")
    if task.accelerator.mixed_precision == "fp16":  # each process would skip steps of its own
        raise ConfigError("FSDP and fp16 do not go together here: launch with --mixed_precision bf16")
    return shared_copy(model)


def _changing(adapter: ScoreAdapter, trained: list[nn.Parameter]) -> dict[str, Tensor]:
    """The tensors that a search changes, besides buffers, by their names in a checkpoint."""
    scores: dict[str, Tensor] = {f"scores.{name}": layer.scores for name, layer in adapter.items()}
    thresholds = {f"threshold.{name}": layer.threshold for name, layer in adapter.items()}
    return {**scores, **thresholds, **{f"trained.{i}": parameter for i, parameter in enumerate(trained)}}


def _check_scores(adapter: ScoreAdapter, task: Task, settings: SearchSettings) -> None:
    sums = adapter.score_sums()
    if any(map(isnan, sums)):
        raise TrainingError(f"the scores have become NaN: lower --lr (now {settings.lr:g})")
    if task.accelerator.num_processes > 1:
        same_everywhere(str(sums), task.accelerator, "the sum of scores")


def _validate(model: nn.Module, task: Task, step: int) -> None:
    if task.data.val is None:
        return
    average_norm_statistics(model, task.accelerator)
    accuracy = evaluate_accuracy(model, task.data.val, batch_size=task.batch_size, accelerator=task.accelerator)
    task.record.write("validation", step=step, top1=accuracy.top1, n=accuracy.n)
