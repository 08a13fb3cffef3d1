"""The flags shared by all training, with timm's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from timm_jackpot.errors import ConfigError
from timm_jackpot.schema import Settings
from timm_jackpot.training.schedule import cosine, step_decay

# Never published: paths on this machine, and settings that do not affect the result.
UNPUBLISHED = {
    *("output", "base_checkpoint", "data_dir"),
    *("overwrite", "resume", "checkpoint_steps", "report_to", "timeout", "plan"),
}


class OptimFlags(Settings):
    """How to train parameters."""

    group: ClassVar[str] = "Training"

    opt: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer: SGD with momentum, Adam, or AdamW."""
    lr: float = Field(default=0.1, ge=1e-12, le=1e6)
    """Peak learning rate."""
    lr_schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Learning rate over time: cosine decay to zero, times lr-decay at each milestone, or constant."""
    lr_milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    """Fractions of the run at which the learning rate falls (lr-schedule=step)."""
    lr_decay: float = Field(default=0.1, gt=0, le=1)
    """Factor by which the learning rate falls at each milestone (lr-schedule=step)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD, β₁ of Adam."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1e3)
    """L2 penalty on the trained parameters; with AdamW, their decoupled decay."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing: the fraction of the target spread over all classes."""
    mixup: float = Field(default=0.0, ge=0, le=100)
    """Alpha of timm's Mixup; 0 turns it off."""
    cutmix: float = Field(default=0.0, ge=0, le=100)
    """Alpha of timm's CutMix; 0 turns it off."""


class LengthFlags(Settings):
    """How long to train."""

    group: ClassVar[str] = "Training"

    steps: int | None = Field(default=None, ge=0, le=10**9)
    """Optimizer steps; give either steps or epochs."""
    epochs: float | None = Field(default=None, gt=0, le=1e6)
    """Passes over the training split; give either epochs or steps."""
    grad_accum_steps: int = Field(default=1, ge=1, le=10**6)
    """Batches whose gradients are averaged for each optimizer step."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Random seed."""


class RunFlags(LengthFlags):
    """How long to train, and how to run it."""

    group: ClassVar[str] = "Advanced"

    report_to: str | None = None
    """Tracker to log the run to, by its Accelerate name: tensorboard, wandb, …"""
    timeout: float = Field(default=1800.0, gt=0, le=1e7)
    """Seconds that a process waits for the other processes of the run before it gives up."""
    deterministic: bool = True
    """On a GPU, use convolutions that repeat their results; with --no-deterministic, cuDNN tries which are fastest."""
    torchcompile: bool = False
    """Compile the model with torch.compile."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: saves memory, but takes about a third more time."""
    channels_last: bool | None = None
    """Keep images and weights in channels_last memory format, in which convolutions on tensor cores are fastest.
    Default: on GPUs."""


class OutputFlags(Settings):
    """Where a run keeps its result, and how it goes on when it was stopped."""

    group: ClassVar[str] = "Output"

    output: str | None = None
    """Folder for the result. Default: a new folder in runs/."""
    overwrite: bool = False
    """Replace the result that is already in --output."""
    checkpoint_steps: int = Field(default=0, ge=0, le=10**9)
    """Save a checkpoint to the output folder every so many steps; 0: only after the last step or when a signal stops
    the run."""
    resume: str | None = None
    """Resume a stopped run: auto (from the newest checkpoint in --output, if any) or the path of a checkpoint."""


class TrainFlags(OptimFlags, RunFlags):
    """How to train, and for how long."""


def total_steps(flags: RunFlags, steps_per_epoch: int, *, default_epochs: float) -> int:
    """Optimizer steps of a run.

    Raises:
        ConfigError: if both steps and epochs are given, or an epoch is shorter than one step.
    """
    if flags.steps is not None and flags.epochs is not None:
        raise ConfigError("give --steps or --epochs, not both")
    if steps_per_epoch < flags.grad_accum_steps:
        raise ConfigError(
            "the training split has too few images for one step: lower --batch-size or --grad-accum-steps"
        )
    if flags.steps is not None:
        return flags.steps
    return max(1, round((flags.epochs or default_epochs) * (steps_per_epoch // flags.grad_accum_steps)))


def uses_channels_last(flags: RunFlags, device: torch.device) -> bool:
    return device.type == "cuda" if flags.channels_last is None else flags.channels_last


def prepare_model(flags: RunFlags, model: nn.Module, device: torch.device) -> None:
    """Move `model` to the device, and set its memory format and activation checkpointing, in place, as the flags ask.

    Raises:
        ConfigError: if the model does not support activation checkpointing.
    """
    if flags.grad_checkpointing:
        try:
            model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(
                f"{type(model).__name__} cannot recompute activations: leave --grad-checkpointing out"
            ) from error
    model.to(device)
    if uses_channels_last(flags, device):
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def make_optimizer(
    flags: OptimFlags, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Make the optimizer that the flags choose, of parameters or of parameter groups."""
    if flags.opt in ("adam", "adamw"):
        kind = torch.optim.Adam if flags.opt == "adam" else torch.optim.AdamW
        return kind(parameters, flags.lr, betas=(flags.momentum, 0.999), weight_decay=flags.weight_decay)
    return torch.optim.SGD(parameters, flags.lr, momentum=flags.momentum, weight_decay=flags.weight_decay)


def learning_rate(flags: OptimFlags, step: int, steps: int) -> float:
    """The learning rate at a step of a run of `steps` steps, by the schedule that the flags choose."""
    if flags.lr_schedule == "cosine":
        return cosine(step, steps, peak=flags.lr)
    if flags.lr_schedule == "step":
        return step_decay(step, steps, peak=flags.lr, milestones=flags.lr_milestones, decay=flags.lr_decay)
    return flags.lr
