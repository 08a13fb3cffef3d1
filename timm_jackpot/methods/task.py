"""What a method is given, and what it gives back."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_jackpot.adapter import merge
from timm_jackpot.base import Base, Maskable, copy_tensors, norm_statistics
from timm_jackpot.data import Data
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet
from timm_jackpot.training import CALIBRATION_IMAGES, Record, RunFlags, RunState, recalibrate


@dataclass(frozen=True)
class Task:
    """A base, the data, and which of the base's weights may be masked."""

    base: Base  # its model is frozen, on the accelerator's device, in eval mode; no method changes it
    maskable: Maskable  # of base.model
    data: Data
    batch_size: int
    accelerator: Accelerator
    run: RunFlags = field(default_factory=RunFlags)
    pretrained: bool = True  # whether the base's answers are worth imitating
    jackpot: MaskSet | None = None  # masks that a control is a control of
    record: Record = field(default_factory=Record)
    state: RunState | None = None  # where a method keeps its state, and an earlier one to go on from

    @property
    def can_teach(self) -> bool:
        """Whether there is something to distil from: not from random weights, nor beside a new head."""
        return self.pretrained and not self.base.new_head

    def masks_to_control(self) -> MaskSet:
        """Raises: ConfigError: where there is no jackpot."""
        if self.jackpot is None:
            raise ConfigError("a control needs a jackpot to be a control of: an audit gives it one")
        return self.jackpot


Role = Literal["norm_statistics", "norm_affine", "head", "weights"]


class Moved(NamedTuple):
    """A tensor of the state dict that a method changed, on the CPU."""

    role: Role
    tensor: Tensor


@dataclass(frozen=True)
class Outcome:
    """What a method found: the base under `masks` (None: dense), with `moved` in the place of its own tensors."""

    masks: MaskSet | None
    moved: dict[str, Moved]
    steps: int  # optimizer steps taken
    seconds: float
    start: MaskSet | None = None  # what the criterion alone would keep, at the same counts


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._started, 2)


@torch.no_grad()
def build_network(task: Task, outcome: Outcome) -> nn.Module:
    """The plain network of an outcome, zeros in the place of removed weights, in eval mode."""
    model = copy.deepcopy(task.base.model)
    state = model.state_dict()
    for name, moved in outcome.moved.items():
        state[name].copy_(moved.tensor)
    return merge(model, outcome.masks or MaskSet({})).eval()


def without_training(
    task: Task,
    masks: MaskSet | None,
    *,
    weights: Mapping[str, Tensor] | None = None,
    recalibrated: bool,
    start: MaskSet | None = None,
) -> Outcome:
    """The base under `masks`, with other `weights` if there are any, and its norm statistics re-estimated if asked.

    Raises:
        ConfigError: for a base with a new head.
    """
    if task.base.new_head:
        raise ConfigError("the new head has to be trained, which this method does not do: take --method search")
    watch = Stopwatch()
    moved = {name: Moved("weights", tensor.detach().cpu()) for name, tensor in (weights or {}).items()}
    names = norm_statistics(task.base.model) if recalibrated else []
    if names:
        model = build_network(task, Outcome(masks, moved, 0, 0.0))
        recalibrate(model, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
        moved |= {name: Moved("norm_statistics", tensor) for name, tensor in copy_tensors(model, names).items()}
    return Outcome(masks, moved, 0, watch.seconds, start)
