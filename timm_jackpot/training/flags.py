"""The training flags that all training shares; names are timm's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from timm_jackpot.errors import ConfigError
from timm_jackpot.schema import Settings


class OptimFlags(Settings):
    """How parameters are trained."""

    group: ClassVar[str] = "Training"

    opt: Literal["sgd", "adam"] = "sgd"
    """Optimizer: SGD with momentum, or Adam."""
    lr: float = Field(default=0.1, ge=1e-12, le=1e6)
    """Peak learning rate; cosine to zero over the run."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD, β₁ of Adam."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1e3)
    """L2 penalty on what is trained."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    mixup: float = Field(default=0.0, ge=0, le=100)
    """Alpha of Mixup (timm's); 0 is none."""
    cutmix: float = Field(default=0.0, ge=0, le=100)
    """Alpha of CutMix (timm's); 0 is none."""


class LengthFlags(Settings):
    """How long a run is."""

    group: ClassVar[str] = "Training"

    steps: int | None = Field(default=None, ge=0, le=10**9)
    """Optimizer steps; not together with epochs."""
    epochs: float | None = Field(default=None, gt=0, le=1e6)
    """Passes over the training split; not together with steps."""
    grad_accum_steps: int = Field(default=1, ge=1, le=10**6)
    """Batches whose gradients are averaged for one optimizer step."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything that is random."""


class RunFlags(LengthFlags):
    """How long a run is, and how it is carried out."""

    group: ClassVar[str] = "Advanced"

    report_to: str | None = None
    """Tracker that follows the run beside its record, as Accelerate names it: tensorboard, wandb, …"""
    timeout: float = Field(default=1800.0, gt=0, le=1e7)
    """Seconds that a process waits for another one of the run before it gives up."""
    torchcompile: bool = False
    """Compile the model with torch.compile (before it is wrapped for several processes)."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    channels_last: bool = False
    """Keep images and weights in channels_last memory format (faster on recent GPUs)."""


class TrainFlags(OptimFlags, RunFlags):
    """Both."""


def total_steps(flags: RunFlags, steps_per_epoch: int, *, default_epochs: float) -> int:
    """Optimizer steps of a run.

    Raises:
        ConfigError: if both steps and epochs were given, or an epoch holds no full batch.
    """
    if flags.steps is not None and flags.epochs is not None:
        raise ConfigError("give --steps or --epochs, not both")
    if steps_per_epoch < flags.grad_accum_steps:
        raise ConfigError(
            "the training split is smaller than one step's images: lower --batch-size or --grad-accum-steps"
        )
    if flags.steps is not None:
        return flags.steps
    return max(1, round((flags.epochs or default_epochs) * (steps_per_epoch // flags.grad_accum_steps)))


def prepare_model(flags: RunFlags, model: nn.Module) -> None:
    """Bring `model`, in place, to the memory format and checkpointing of activations that the flags ask for.

    Raises:
        ConfigError: if the model cannot checkpoint activations.
    """
    if flags.grad_checkpointing:
        try:
            model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(
                f"{type(model).__name__} cannot recompute activations: leave --grad-checkpointing out"
            ) from error
    if flags.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def make_optimizer(flags: OptimFlags, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that the flags name."""
    if flags.opt == "adam":
        return torch.optim.Adam(parameters, flags.lr, betas=(flags.momentum, 0.999), weight_decay=flags.weight_decay)
    return torch.optim.SGD(parameters, flags.lr, momentum=flags.momentum, weight_decay=flags.weight_decay)
