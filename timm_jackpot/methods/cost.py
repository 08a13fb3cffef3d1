"""What an outcome has cost: epochs, and the floating-point operations that its masks leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from timm_jackpot.data import steps_per_epoch
from timm_jackpot.methods.task import Outcome, Phase, Task
from timm_jackpot.runtime.processes import shard_of


@dataclass(frozen=True)
class Cost:
    """Passes over the training images by phase, and FLOPs of all training, in theory: as if zeros cost nothing.

    What trained the base is not part of it.
    """

    epochs: dict[str, float]
    forward_flops: float
    backward_flops: float
    seconds: float
    dense_epochs: float  # the epochs of dense training of the base that have as many FLOPs


def cost_of(task: Task, outcome: Outcome) -> Cost:
    """A backward pass costs a forward pass for the gradients of activations, and another for those of weights.

    The gradients of all weights are counted where a method needs them, as Evci et al. 2020 (App. H) count RigL.
    """
    per_epoch = steps_per_epoch(len(task.data.train), task.batch_size, shard_of(task.accelerator))
    images = task.batch_size * task.accelerator.num_processes * task.accelerator.gradient_accumulation_steps
    layers, rest = _layer_flops(outcome.network or task.base.model, task)
    dense = rest + sum(layers.values())
    of_base = dense if outcome.network is None else forward_flops(task.base.model, task)
    epochs: dict[str, float] = {}
    forward = backward = 0.0
    for phase in outcome.phases:
        taken = phase.steps * task.accelerator.gradient_accumulation_steps / per_epoch
        epochs[phase.title] = round(epochs.get(phase.title, 0.0) + taken, 3)
        sparse = rest + sum(_kept_share(phase, task, name) * flops for name, flops in layers.items())
        forward += phase.steps * images * (sparse + phase.teacher * of_base)
        if not phase.head_only:
            of_weights = phase.dense_gradients * dense + (1 - phase.dense_gradients) * sparse
            backward += phase.steps * images * (sparse + of_weights)
    dense_epoch = 3 * of_base * per_epoch * task.batch_size * task.accelerator.num_processes
    return Cost(epochs, forward, backward, outcome.seconds, (forward + backward) / dense_epoch)


def forward_flops(model: nn.Module, task: Task) -> int:
    """FLOPs of one image's forward pass."""
    return _counted(model, task).get_total_flops()


def _layer_flops(model: nn.Module, task: Task) -> tuple[dict[str, float], float]:
    """FLOPs of an image in the layer of each maskable weight, and in all others."""
    counter = _counted(model, task)
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(model).__name__
    layers = {name: float(by_module.get(f"{root}.{name.rpartition('.')[0]}", 0)) for name in task.maskable.weights}
    return layers, counter.get_total_flops() - sum(layers.values())


def _kept_share(phase: Phase, task: Task, name: str) -> float:
    return 1.0 if phase.kept is None else phase.kept[name] / task.maskable.weights[name].numel()


@torch.no_grad()
def _counted(model: nn.Module, task: Task) -> FlopCounterMode:
    image = torch.zeros(1, *task.data.config["input_size"], device=task.accelerator.device)
    training = [module for module in model.modules() if module.training]
    with FlopCounterMode(display=False) as counter:
        model.eval()(image)
    for module in training:
        module.training = True
    return counter
