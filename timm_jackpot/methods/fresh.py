from __future__ import annotations

from dataclasses import replace

from torch import nn

from timm_jackpot.base import norm_affine, open_branches, random_weights, working_copy
from timm_jackpot.methods.task import ChangedTensor, Outcome, Task


def with_random_weights(task: Task) -> Task:
    """The task on a copy of its base with random weights, drawn from torch's generator; nothing can teach it.

    Raises:
        BaseError: if timm cannot build the architecture.
    """
    fresh = random_weights(task.base.ref)
    model = working_copy(task.base.model, own=[name for name, _ in task.base.model.named_parameters()])
    model.load_state_dict(fresh, strict=False)
    return replace(on_network(task, model), pretrained=False)


def on_network(task: Task, model: nn.Module) -> Task:
    """The task with other weights of the same architecture in place of its base's."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    maskable = replace(task.maskable, weights={name: parameters[name] for name in task.maskable.weights})
    return replace(task, base=replace(task.base, model=model), maskable=maskable)


def with_open_branches(task: Task) -> Task:
    """The task with random weights on a copy of its base to which `open_branches` was done."""
    model = working_copy(task.base.model, own=norm_affine(task.base.model))
    open_branches(model)
    return replace(task, base=replace(task.base, model=model))


def with_these_weights(outcome: Outcome, task: Task) -> Outcome:
    """The outcome of a search in a task with random weights, which are part of it."""
    state = task.base.model.state_dict()
    weights = {name: ChangedTensor("weights", tensor.detach().cpu()) for name, tensor in state.items()}
    return replace(outcome, changed={**weights, **outcome.changed})
