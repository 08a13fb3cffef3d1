"""`--plan`: what a search would take, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from timm.models import is_model, split_model_name_tag
from torch import nn

from timm_jackpot.base import Base, base_from_module, build_skeleton, create_timm_model, parse_model_kwargs
from timm_jackpot.data import data_config, open_data, random_data
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import packed_bytes
from timm_jackpot.methods import Budget, find_maskable, method
from timm_jackpot.runtime.sharding import blocks_of, shards
from timm_jackpot.search.config import AUTO, RunConfig, has_new_head
from timm_jackpot.search.task import make_task, steps_of
from timm_jackpot.training import Record, run_accelerator

_STEPS = 11  # so that ten are timed, in one of which thresholds are recomputed


def plan_search(config: RunConfig) -> dict[str, Any]:
    """Measure a few steps of a search on random weights and random images, on the processes and devices of the run.

    Only the names of the training images are read, and not even those if the number of steps is given.

    Returns:
        Steps, hours and the bytes of masks and of memory. Hours are those of the steps alone, without reading images;
        peak memory is the largest over processes.

    Raises:
        JackpotError: if the model, the data or the settings are not usable.
    """
    architecture, _ = split_model_name_tag(config.model)
    if not is_model(architecture):
        raise ConfigError(f"--plan is for timm's models, and {config.model!r} is none: see timm.list_models()")
    if config.sparsity == AUTO:
        raise ConfigError(f"--plan cannot choose a sparsity: give --sparsity a number, not {AUTO}")
    accelerator = run_accelerator(config, config.output or "runs/plan", can_shard=True)
    steps, images = config.steps, None
    if steps is None:
        skeleton = build_skeleton(architecture, parse_model_kwargs(config.model_kwargs), **_changes(config))
        images = len(open_data(config, skeleton, device=accelerator.device, img_size=config.img_size).train)
        steps = steps_of(config, images, accelerator)
    base = _random_base(architecture, config)
    size = data_config(base.model, config.img_size)["input_size"]
    maskable = find_maskable(config, base, size, allocation=config.allocation)
    data = random_data(base.model, size, config.batch_size * accelerator.num_processes, accelerator.device)
    record = Record()
    task = replace(make_task(config, base, maskable, data, accelerator), record=record)
    shorter = config.model_copy(update={"head_steps": 0} if "head_steps" in type(config).model_fields else {})
    method(config.method).run(task, Budget.of(config, steps=_STEPS, seed=config.seed), shorter)
    if not (speed := record.last("speed")):
        raise ConfigError(f"the method {config.method} takes no steps: there is nothing to plan")
    weights = sum(maskable.sizes.values())
    return {
        "model": architecture,
        "parameters": sum(parameter.numel() for parameter in base.model.parameters()),
        "maskable_weights": weights,
        "mask_bytes": sum(map(packed_bytes, maskable.sizes.values())),
        "training_images": images,
        "steps": steps,
        "hours": steps * speed["seconds_per_step"] / 3600,
        "images_per_second": speed["images_per_second"],
        "processes": accelerator.num_processes,
        "peak_bytes": max(speed["peak_bytes"]),
        **memory_of(base.model, weights, accelerator.num_processes if shards(accelerator) else 1),
    }


def memory_of(model: nn.Module, maskable: int, processes: int = 1) -> dict[str, int]:
    """Bytes that each of `processes` holds with FSDP2, or a single process without, activations not counted.

    Args:
        model: on any device, also meta.
        maskable: how many of its weights have a score.
    """
    share = -(-4 * maskable // processes)
    blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks_of(model)]
    return {
        "weight_bytes": 4 * sum(parameter.numel() for parameter in model.parameters()),
        "score_bytes": share,
        "gradient_bytes": share,
        "momentum_bytes": share,
        "gathered_bytes": 8 * max(blocks, default=0) if processes > 1 else 0,  # scores and gradients of one block
    }


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
