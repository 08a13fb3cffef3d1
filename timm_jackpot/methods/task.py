"""What a method takes, and what it returns."""

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
from timm_jackpot.base import Base, Maskable
from timm_jackpot.data import Data
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet
from timm_jackpot.training import Record, RunFlags, RunState


@dataclass(frozen=True)
class Task:
    """A base, the data, and which of the base's weights may be masked."""

    base: Base  # its model is frozen, on the accelerator's device and in eval mode; methods must not change it
    maskable: Maskable  # of base.model
    data: Data
    batch_size: int
    accelerator: Accelerator
    run: RunFlags = field(default_factory=RunFlags)
    pretrained: bool = True  # whether the base is worth distilling from
    jackpot: MaskSet | None = None  # the masks that a control is compared with
    record: Record = field(default_factory=Record)
    state: RunState | None = None  # where a method saves its state, or resumes from

    @property
    def can_teach(self) -> bool:
        """Whether the base can be distilled from: not with random weights or a new head."""
        return self.pretrained and not self.base.new_head

    def masks_to_control(self) -> MaskSet:
        """Raises: ConfigError: if there is no jackpot."""
        if self.jackpot is None:
            raise ConfigError("a control needs a jackpot to compare with: run it with audit")
        return self.jackpot


Role = Literal["norm_statistics", "norm_affine", "head", "weights"]


class ChangedTensor(NamedTuple):
    """A state-dict tensor that a method changed, on the CPU."""

    role: Role
    tensor: Tensor


@dataclass(frozen=True)
class Phase:
    """Part of a method's steps, in which the cost of a step is the same."""

    title: str
    steps: int
    kept: Mapping[str, int] | None = None  # weights in each maskable layer; None: all of them
    dense_gradients: float = 0.0  # fraction of the steps that take the gradient of removed weights too
    head_only: bool = False  # the rest of the network is not differentiated
    teacher: bool = False  # each step has a forward pass of the dense base too


@dataclass(frozen=True)
class Outcome:
    """The result of a method: the base under `masks` (None: dense), with the tensors in `changed` replaced."""

    masks: MaskSet | None
    changed: dict[str, ChangedTensor]
    steps: int  # optimizer steps taken
    seconds: float
    start: MaskSet | None = None  # the masks that the criterion alone would give, at the same counts
    # By weight: low-rank factors A [r, …] and B [out, r, …], stored instead of the changed weight that they make up.
    factors: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    extra_flops: float = 0.0  # of a forward pass whose updates are not merged, as a fraction of the base's
    phases: tuple[Phase, ...] = ()  # what the steps were spent on
    initial: Mapping[str, Tensor] | None = None  # the state dict that the weights in `changed` were trained from
    initial_step: int = 0  # steps of dense training behind it
    network: nn.Module | None = None  # in place of the base, if the result has another shape


class Stopwatch:
    """Measures the seconds since its creation."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._started, 2)


@torch.no_grad()
def build_network(task: Task, outcome: Outcome) -> nn.Module:
    """The plain network of an outcome, with removed weights set to zero, in eval mode."""
    if outcome.network is not None:
        return outcome.network
    model = copy.deepcopy(task.base.model)
    state = model.state_dict()
    for name, changed in outcome.changed.items():
        state[name].copy_(changed.tensor)
    return merge(model, outcome.masks or MaskSet({})).eval()
