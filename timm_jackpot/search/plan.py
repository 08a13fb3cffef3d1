"""`--plan`: what a search would take, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from timm.models import is_model, split_model_name_tag
from torch import nn

from timm_jackpot.base import Base, base_from_module, build_skeleton, create_timm_model, parse_model_kwargs
from timm_jackpot.data import data_config, open_data, random_data
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import packed_bytes
from timm_jackpot.methods import Budget, SearchSettings, find_maskable, method
from timm_jackpot.runtime.sharding import gathered_at_once, splits_trained
from timm_jackpot.search.config import AUTO, RunConfig, has_new_head
from timm_jackpot.search.task import make_task, steps_of
from timm_jackpot.training import Record, run_accelerator

_STEPS = 11  # so that ten are timed, before one of which thresholds are recomputed
_FLOAT32 = 4  # bytes


def plan_search(config: RunConfig) -> dict[str, Any]:
    """Measure a few steps of a search on random weights and random images, on the processes and devices of the run.

    No weights are loaded. Without a number of steps, the data set is opened to count its training images.

    Returns:
        Steps, hours and the bytes of masks and of memory. Hours are those of the steps alone, without evaluations and
        reading images from files; peak memory is the largest over processes, on a CPU with all that Python holds.

    Raises:
        JackpotError: if the model, the data or the settings are not usable.
    """
    architecture, _ = split_model_name_tag(config.model)
    if not is_model(architecture):
        raise ConfigError(f"--plan is for timm's models, and {config.model!r} is none: see timm.list_models()")
    if not isinstance(config, SearchSettings) or config.steps == 0:
        raise ConfigError(f"--plan is for searches of some steps: leave it out for {config.method} with {config.steps}")
    if config.sparsity == AUTO:
        raise ConfigError(f"--plan cannot choose a sparsity: give --sparsity a number, not {AUTO}")
    accelerator = run_accelerator(config, config.output or "runs/plan", can_shard=True)
    images, steps = _training_images(architecture, config, accelerator)
    if config.head_steps > steps:
        raise ConfigError(f"--head-steps {config.head_steps} are more than the run's {steps} steps: lower them")
    base = _random_base(architecture, config)
    config.check_for(base)
    size = data_config(base.model, config.img_size)["input_size"]
    maskable = find_maskable(config, base, size, allocation=config.allocation)
    data = random_data(base.model, size, config.batch_size * accelerator.num_processes, accelerator.device)
    record = Record()
    task = replace(make_task(config, base, maskable, data, accelerator), record=record)
    trial = config.model_copy(update={"head_steps": 0, "schedule": "constant"})
    method(config.method).run(task, Budget.of(config, steps=_STEPS, seed=config.seed), trial)
    speed = record.last("speed")
    sizes = maskable.sizes
    scores = sum(sizes.values())
    if maskable.filters is not None:
        scores = sum(len(maskable.weights[group[0]]) for group in maskable.filters.groups)
    return {
        "model": architecture,
        "parameters": sum(parameter.numel() for parameter in base.model.parameters()),
        "maskable_weights": sum(sizes.values()),
        "mask_bytes": sum(map(packed_bytes, sizes.values())),
        **({} if images is None else {"training_images": images}),
        "steps": steps,
        "hours": steps * speed["seconds_per_step"] / 3600,
        "images_per_second": speed["images_per_second"],
        "processes": accelerator.num_processes,
        "peak_bytes": max(filter(None, speed["peak_bytes"]), default=None),  # Windows does not say
        **memory_of(
            base.model,
            scores,
            accelerator.num_processes if splits_trained(accelerator) else 1,
            moments=2 if config.opt.startswith("adam") else int(config.momentum > 0),
        ),
    }


def memory_of(model: nn.Module, scores: int, processes: int = 1, *, moments: int = 1) -> dict[str, int]:
    """Bytes that each of `processes` holds with FSDP2, or a single process without; activations are not counted.

    Args:
        model: on any device, also meta.
        scores: how many are trained.
        moments: of each score, kept by the optimizer.
    """
    share = -(-_FLOAT32 * scores // processes)
    return {
        "weight_bytes": _FLOAT32 * sum(parameter.numel() for parameter in model.parameters()),
        "score_bytes": share,
        "gradient_bytes": share,
        "momentum_bytes": moments * share,
        "gathered_bytes": 2 * _FLOAT32 * gathered_at_once(model) if processes > 1 else 0,  # scores and gradients
    }


def _training_images(architecture: str, config: RunConfig, accelerator: Accelerator) -> tuple[int | None, int]:
    """The number of training images, if it takes them to know the steps; and the steps."""
    if config.steps is not None:
        return None, config.steps
    skeleton = build_skeleton(architecture, parse_model_kwargs(config.model_kwargs), **_changes(config))
    images = len(open_data(config, skeleton, device=accelerator.device, img_size=config.img_size).train)
    return images, steps_of(config, images, accelerator)


def _changes(config: RunConfig) -> dict[str, int | None]:
    return {"num_classes": config.num_classes, "in_chans": config.in_chans, "img_size": config.img_size}


def _random_base(architecture: str, config: RunConfig) -> Base:
    """The architecture with random weights; nothing is written or fetched."""
    requested = {key: value for key, value in _changes(config).items() if value is not None}
    try:
        model = create_timm_model(architecture, requested, pretrained=False, **parse_model_kwargs(config.model_kwargs))
    except TypeError as error:
        raise ConfigError(f"{architecture} does not take these arguments: {error}") from error
    found, pretrained_cfg = data_config(model, config.img_size), vars(model).get("pretrained_cfg", {})
    return base_from_module(
        model,
        architecture,
        num_classes=int(model.num_classes),  # pyright: ignore[reportArgumentType]
        input_size=found["input_size"],
        mean=found["mean"],
        std=found["std"],
        classifier=pretrained_cfg.get("classifier") or (),
        new_head=has_new_head(config.model_dump()),
    )
