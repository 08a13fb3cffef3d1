"""Train one rival and measure it: accuracy, bytes per task, trained parameters, time to switch to it."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import nn

from timm_jackpot.data import ImageSource
from timm_jackpot.errors import TrainingError
from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.masks import encode_compact
from timm_jackpot.methods import Budget, Outcome, Task, build_network, cost_of, method
from timm_jackpot.search import RunConfig
from timm_jackpot.search.task import steps_of
from timm_jackpot.training import Record

_SWITCHES = 5
_BYTES = 4  # float32


def validation_accuracy(task: Task, config: RunConfig) -> dict[str, Any]:
    """Top-1 on the held-out images after training; 0 if training diverged with these settings."""
    assert task.data.val is not None
    try:
        outcome = _train(task, config)
    except TrainingError as error:
        return {"top1": 0.0, "failed": str(error)}
    return {"top1": _accuracy(task, outcome, task.data.val).top1, "steps": outcome.steps, "seconds": outcome.seconds}


def test_split_figures(task: Task, config: RunConfig) -> dict[str, Any]:
    """Top-1 on the test split after training, and what the result costs."""
    outcome = _train(task, config)
    accuracy, cost = _accuracy(task, outcome, task.data.test), cost_of(task, outcome)
    return {
        "family": method(config.method).family,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "test_images": len(task.data.test),
        "sparsity": outcome.masks.sparsity if outcome.masks is not None else 0.0,
        **{f"{kind}_bytes": size for kind, size in stored_bytes(task, outcome).items()},
        "trained_parameters": _trained(task, outcome, config),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "epochs": cost.epochs,
        "training_flops": cost.forward_flops + cost.backward_flops,
        "dense_epochs": cost.dense_epochs,
        "extra_flops": outcome.extra_flops,
        "switch_seconds": switch_seconds(task, outcome),
    }


def stored_bytes(task: Task, outcome: Outcome) -> dict[str, int]:
    """Bytes that one task takes beside the base, by kind: compact masks, everything else in float32, without zeros."""
    found: dict[str, int] = dict.fromkeys(("mask", "norm_statistics", "norm_affine", "head", "weights"), 0)
    if outcome.masks is not None:
        weights = {name: task.maskable.weights[name].detach().cpu() for name in outcome.masks}
        found["mask"] = encode_compact(outcome.masks, weights).numel()
    for name, (role, _) in outcome.changed.items():
        if role != "weights" or not outcome.factors:
            found[role] += _values(name, outcome) * _BYTES
    if outcome.network is not None:  # stored whole, in place of the base
        found["weights"] += _parameters(outcome.network) * _BYTES
    found["weights"] += sum(a.numel() + b.numel() for a, b in outcome.factors.values()) * _BYTES
    return found


@torch.no_grad()
def switch_seconds(task: Task, outcome: Outcome) -> float:
    """Median time to write this task's tensors, decoded and in memory, into a network that shares the base."""
    model, base = copy.deepcopy(task.base.model), task.base.model.state_dict()
    state = model.state_dict()
    device = task.accelerator.device
    masks = {name: mask.to(device) for name, mask in (outcome.masks or {}).items()}
    changed = {name: tensor.to(device) for name, (_, tensor) in outcome.changed.items()}
    pairs = {name: (a.to(device), b.to(device)) for name, (a, b) in outcome.factors.items()}
    times = []
    for _ in range(_SWITCHES):
        started = time.perf_counter()
        for name, mask in masks.items():
            torch.mul(base[name], mask, out=state[name])
        for name, tensor in changed.items():
            if name in pairs:
                a, b = pairs[name]
                product = (b.flatten(1) @ a.flatten(1)).reshape(state[name].shape)
                torch.add(base[name], product, out=state[name])
            else:
                state[name].copy_(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times)


def _train(task: Task, config: RunConfig) -> Outcome:
    steps = steps_of(config, len(task.data.train), task.accelerator)
    task = replace(task, record=Record())  # progress lines show its last validation
    outcome = method(config.method).run(task, Budget.of(config, steps=steps, seed=config.seed), config)
    if not all(bool(tensor.isfinite().all()) for _, tensor in outcome.changed.values()):
        raise TrainingError("training diverged: lower the learning rate")
    return outcome


def _accuracy(task: Task, outcome: Outcome, images: ImageSource) -> Accuracy:
    network = build_network(task, outcome)
    return evaluate_accuracy(network, images, batch_size=task.batch_size, accelerator=task.accelerator)


def _trained(task: Task, outcome: Outcome, config: RunConfig) -> int:
    """Trained parameters: scores, factors, and every changed tensor but statistics and merged weights."""
    scores = outcome.masks.total if outcome.masks is not None and method(config.method).family == "mask search" else 0
    factors = sum(a.numel() + b.numel() for a, b in outcome.factors.values())
    others = sum(
        _values(name, outcome)
        for name, (role, _) in outcome.changed.items()
        if role != "norm_statistics" and not (role == "weights" and outcome.factors)
    )
    return scores + factors + others + (_parameters(outcome.network) if outcome.network is not None else 0)


def _values(name: str, outcome: Outcome) -> int:
    """The number of values of a changed tensor, only those that its mask keeps if it has one."""
    mask = (outcome.masks or {}).get(name)
    return outcome.changed[name].tensor.numel() if mask is None else int(mask.count_nonzero())


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
