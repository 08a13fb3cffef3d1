"""Dense training, for bases without published weights (the papers' CIFAR networks, the bundled digits)."""

from __future__ import annotations

from typing import Any, ClassVar

from accelerate import Accelerator
from pydantic import Field
from timm.models import is_model
from torch import nn

from timm_jackpot.base import MAX_CLASSES, MAX_PIXELS, create_timm_model, parse_model_kwargs
from timm_jackpot.data import default_data_notice, open_data, steps_per_epoch
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.runtime.processes import say, shard_of
from timm_jackpot.schema import Command
from timm_jackpot.training.dense import DenseFlags, DenseRun, finished_summary, open_dense_run
from timm_jackpot.training.flags import prepare_model, total_steps
from timm_jackpot.training.run_state import RunState


class PretrainConfig(DenseFlags):
    """Train a dense base from random weights."""

    group: ClassVar[str] = "Model"
    command: ClassVar[Command | None] = Command(
        "pretrain",
        (
            "--recipe digits_pretrain --output base",
            "--model cifar_resnet20 --dataset torch/cifar10 --epochs 160 --output base",
            "--model resnet18 --data-dir flowers --num-classes 102 --output base",
        ),
        basic=(
            *("model", "num_classes", "img_size", "dataset", "data_dir", "batch_size"),
            *("steps", "epochs", "lr", "weight_decay", "seed", "output", "overwrite", "resume"),
        ),
        recipes=True,
    )

    model: str = "cifar_resnet20"
    """A timm architecture, without a tag."""
    model_kwargs: tuple[str, ...] = ()
    """More arguments for the timm model, as key=value."""
    num_classes: int | None = Field(default=None, ge=1, le=MAX_CLASSES)
    """Number of classes of the head. Default: the architecture's own."""
    img_size: int | None = Field(default=None, ge=1, le=MAX_PIXELS)
    """Image size in pixels, if it differs from the architecture's."""
    save_steps: tuple[int, ...] = ()
    """Also save the weights before these steps, as step_N.safetensors: 0 for the random ones."""


def pretrain_base(config: PretrainConfig) -> dict[str, Any]:
    """Train, evaluate once on the test split, save; return the summary that the verb prints.

    Raises:
        RunInterrupted: if a signal stopped the run; it can be resumed.
        JackpotError: if something is wrong with model, data or flags; before any training.
    """
    if (summary := finished_summary(config)) is not None:
        return summary
    with open_dense_run(config) as (accelerator, state):
        return _pretrain(config, accelerator, state)


def _pretrain(config: PretrainConfig, accelerator: Accelerator, state: RunState) -> dict[str, Any]:
    model = _build(config)
    shard = shard_of(accelerator)

    def steps_of(images: int) -> int:
        return total_steps(config, steps_per_epoch(images, config.batch_size, shard), default_epochs=30)

    with accelerator.main_process_first():
        say(default_data_notice(config, model, steps=steps_of), accelerator)
        data = open_data(config, model, device=accelerator.device, img_size=config.img_size)
    steps = steps_of(len(data.train))
    if late := [step for step in config.save_steps if not 0 <= step < steps]:
        raise ConfigError(f"--save-steps {late[0]} is not a step of this run: name steps from 0 to {steps - 1}")
    state.begin(f"pretrain: {config.model}", data, config, steps)
    prepare_model(config, model, accelerator.device)
    run = DenseRun("pretrain", model, data, config, steps, state, accelerator, config.save_steps)
    return run.train_and_save(lambda figures: {"model": config.model, **figures})


def _build(config: PretrainConfig) -> nn.Module:
    if not is_model(config.model):
        raise BaseError(f"unknown architecture {config.model!r}: see timm.list_models() for the names")
    changes = {"num_classes": config.num_classes, "img_size": config.img_size}
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    try:
        model = create_timm_model(config.model, requested, pretrained=False, **parse_model_kwargs(config.model_kwargs))
    except MemoryError:
        raise
    except Exception as error:  # timm's constructors raise all kinds of errors
        raise BaseError(f"{config.model} does not take these arguments: {error or type(error).__name__}") from error
    if config.img_size is not None:  # saved with the weights, so that later searches use the same image size
        channels = model.pretrained_cfg["input_size"][0]  # pyright: ignore
        model.pretrained_cfg["input_size"] = (channels, config.img_size, config.img_size)  # pyright: ignore
    return model
