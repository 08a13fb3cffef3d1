"""The run that all sparse training shares: initial weights and masks, training, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from timm_jackpot.base import norm_affine, working_copy
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import with_random_weights
from timm_jackpot.methods.sparse.network import SparseWeights, Update
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.task import Outcome, Role, Stopwatch, Task
from timm_jackpot.methods.train import HeadFlags, changed_tensors, head_of, train_network
from timm_jackpot.runtime.processes import same_everywhere
from timm_jackpot.training import average_norm_statistics

_STREAM = 1_000_003  # parts the random choices of a run from those of its batches


class SparseTrainingSettings(HeadFlags):
    """Settings of sparse training."""

    group: ClassVar[str] = "Search"

    lr: float = Field(default=0.1, ge=1e-12, le=1e6)
    """Peak learning rate."""
    pretrained_weights: bool = False
    """Start from the base's weights instead of random ones."""


def sparse_training(
    task: Task,
    budget: Budget,
    settings: SparseTrainingSettings,
    *,
    masks: Callable[[Task], Mapping[str, Tensor]],
    update: Update = lambda moment: None,
    state: Mapping[str, Tensor] | None = None,
) -> Outcome:
    """Train all weights of the network, the maskable ones under masks that `update` may change.

    Args:
        masks: gives the masks at the start, for the task with its initial weights.
        state: tensors that `update` changes in place, by names of their own, for checkpoints.
    """
    watch = Stopwatch()
    task = task if settings.pretrained_weights else with_random_weights(task)
    start = masks(task)
    names = [name for name, _ in task.base.model.named_parameters()]
    model = working_copy(task.base.model, own=names).requires_grad_(True)
    parameters = dict(model.named_parameters())
    roles: dict[str, Role] = dict.fromkeys(names, "weights")
    roles |= dict.fromkeys((name for name in norm_affine(model)), "norm_affine")
    roles |= head_of(task.base, task.maskable.weights)
    sparse: list[SparseWeights] = []

    def attach(optimizer: torch.optim.Optimizer) -> None:
        first_step = task.state.resumed.step if task.state is not None and task.state.resumed is not None else 0
        weights = {name: parameters[name] for name in task.maskable.weights}
        sparse.append(SparseWeights(weights, start, optimizer, update, first_step=first_step))

    def named() -> dict[str, Tensor]:
        held = {f"mask.{name}": mask for name, mask in sparse[0].masks.items()}
        held |= {f"state.{name}": tensor for name, tensor in (state or {}).items()}
        return {**held, **{f"parameter.{name}": parameter for name, parameter in parameters.items()}}

    head = [name for name, role in roles.items() if role == "head"]
    train_network(
        model,
        task,
        settings,
        rest=[parameters[name] for name in names if name not in head],
        head=[parameters[name] for name in head],
        steps=budget.steps,
        seed=budget.seed,
        title="train",
        named=named,
        prepare=attach,
    )
    average_norm_statistics(model, task.accelerator)
    final = MaskSet({name: mask.cpu() for name, mask in sparse[0].masks.items()})
    task.record.write("mask_hashes", by_rank=same_everywhere(final.hash(), task.accelerator, "the mask"))
    return Outcome(final, changed_tensors(model, roles), budget.steps, watch.seconds, MaskSet(start))


def generator_at(budget: Budget, step: int) -> torch.Generator:
    """The random choices of one step of a run: the same on every process, and in a resumed run."""
    return torch.Generator().manual_seed((budget.seed * _STREAM + step) % 2**63)


def random_masks(task: Task, budget: Budget) -> MaskSet:
    """Masks at random positions, with the budget's counts."""
    return start_from("random", task, budget).masks
