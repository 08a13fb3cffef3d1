"""Train a new head before the scores move: gradients through an untrained head say nothing about weights."""

from __future__ import annotations

from torch import nn

from timm_jackpot.base import norm_layers
from timm_jackpot.methods.search_settings import SearchSettings
from timm_jackpot.methods.task import Task
from timm_jackpot.training import Objective, Record, cosine, fit, make_mixer, make_optimizer

_SEED = 1_000_003  # so that the search does not see the same batches again in the same order


def warm_head(model: nn.Module, head: list[nn.Parameter], task: Task, settings: SearchSettings, *, seed: int) -> None:
    """Train `head`, in place, for `settings.head_steps` steps on the frozen network: a linear probe."""
    seed = (seed + _SEED) % 2**31
    fit(
        accelerator=task.accelerator,
        model=model,
        optimizer=make_optimizer(settings, head),
        objective=Objective(settings.label_smoothing),
        train=task.data.train,
        batch_size=task.batch_size,
        seed=seed,
        steps=settings.head_steps,
        lr_at=lambda step: cosine(step, settings.head_steps, peak=settings.head_lr or settings.lr),
        record=Record(),
        title="head",
        mix=make_mixer(settings, task.data.num_classes, task.batch_size, seed),
        keep_in_eval=[layer for _, layer in norm_layers(model)],
        channels_last=task.run.channels_last,
    )
