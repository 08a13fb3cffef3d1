"""Dense training, for bases that no zoo has (the seeds' CIFAR networks, the bundled digits)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ConfigDict, Field
from safetensors.torch import save_file
from timm.models import is_model
from timm.models._hub import save_config_for_hf

from timm_jackpot.base import create_timm_model, parse_model_kwargs
from timm_jackpot.data import DataFlags, default_data_notice, open_data, steps_per_epoch
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.processes import make_accelerator, say, shard_of
from timm_jackpot.training.flags import TrainFlags, make_optimizer, prepare_model, total_steps
from timm_jackpot.training.loop import fit
from timm_jackpot.training.norm_statistics import average_norm_statistics
from timm_jackpot.training.objective import Objective
from timm_jackpot.training.record import Record
from timm_jackpot.training.schedule import cosine


class PretrainConfig(DataFlags, TrainFlags):
    """Settings of one dense training run from random weights."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    model: str = "cifar_resnet20"
    """A timm architecture, without tag."""
    model_kwargs: tuple[str, ...] = ()
    """Further arguments of the timm model, as key=value."""
    num_classes: int | None = Field(default=None, ge=1)
    """Classes of the head. Default: the architecture's own."""
    img_size: int | None = Field(default=None, ge=1)
    """Image size in pixels, where it differs from the architecture's."""
    output: str
    """Folder for model.safetensors, config.json (load it with local-dir:FOLDER) and the record."""


def pretrain_base(config: PretrainConfig) -> dict[str, Any]:
    """Train, evaluate on the test split once, save; returns the summary that the verb prints.

    Raises:
        JackpotError: for anything wrong with model, data or flags, before any training.
    """
    started = time.monotonic()
    accelerator = make_accelerator(seed=config.seed, grad_accum_steps=config.grad_accum_steps)
    model = _build(config)
    shard = shard_of(accelerator)

    def steps_of(images: int) -> int:
        return total_steps(config, steps_per_epoch(images, config.batch_size, shard), default_epochs=30)

    with accelerator.main_process_first():
        say(default_data_notice(config, model, steps=steps_of), accelerator)
        data = open_data(config, model, device=accelerator.device, img_size=config.img_size)
    steps = steps_of(len(data.train))
    prepare_model(config, model.to(accelerator.device))
    folder = Path(config.output)
    if accelerator.is_main_process:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--output {folder} cannot be written: {error.strerror}") from error
    record = Record(folder / "record.jsonl" if accelerator.is_main_process else None)
    try:
        fit(
            accelerator=accelerator,
            model=model,
            optimizer=make_optimizer(config, model.parameters()),
            objective=Objective(config.label_smoothing),
            train=data.train,
            batch_size=config.batch_size,
            seed=config.seed,
            steps=steps,
            lr_at=lambda step: cosine(step, steps, peak=config.lr),
            record=record,
            title="pretrain",
            torchcompile=config.torchcompile,
            channels_last=config.channels_last,
        )
        average_norm_statistics(model, accelerator)
        splits = {"test": data.test} | ({"validation": data.val} if data.val else {})
        top1 = {
            name: evaluate_accuracy(model, split, batch_size=config.batch_size, accelerator=accelerator).top1
            for name, split in splits.items()
        }
        summary = {
            "model": config.model,
            "dataset": data.name,
            "top1": top1["test"],
            "validation_top1": top1.get("validation"),
            "test_images": len(data.test),
            "steps": steps,
            "seconds": round(time.monotonic() - started, 2),
            "seed": config.seed,
            "checkpoint": str(folder / "model.safetensors"),
        }
        record.write("result", **summary)
    finally:
        record.close()
    if accelerator.is_main_process:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        save_config_for_hf(model, str(folder / "config.json"))
        (folder / "recipe.yaml").write_text(
            yaml.safe_dump(config.model_dump(mode="json", exclude={"output", "data_dir"}), sort_keys=False),
            encoding="utf-8",
        )
    return summary


def _build(config: PretrainConfig) -> torch.nn.Module:
    if not is_model(config.model):
        raise BaseError(f"unknown architecture {config.model!r}: see timm.list_models() for the names")
    changes = {"num_classes": config.num_classes, "img_size": config.img_size}
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    try:
        model = create_timm_model(config.model, requested, pretrained=False, **parse_model_kwargs(config.model_kwargs))
    except TypeError as error:
        raise BaseError(f"{config.model} does not take these arguments: {error}") from error
    if config.img_size is not None:  # saved with the weights: what is searched in them later sees the same images
        channels = model.pretrained_cfg["input_size"][0]  # pyright: ignore
        model.pretrained_cfg["input_size"] = (channels, config.img_size, config.img_size)  # pyright: ignore
    return model
