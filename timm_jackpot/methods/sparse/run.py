"""The run that all sparse training shares: initial weights and masks, training, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from timm_jackpot.base import working_copy
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import with_random_weights
from timm_jackpot.methods.sparse.network import SparseWeights, Update
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import HeadFlags, all_of, changed_tensors, train_network, unfreeze
from timm_jackpot.runtime.processes import same_everywhere, say
from timm_jackpot.training import average_norm_statistics

_STREAM = 1_000_003  # parts the random choices of a run from those of its batches
BeforeStep = Callable[[int, nn.Module, SparseWeights], None]  # steps done, the network, its sparse weights


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
    update: Update | None = None,
    after_step: Update | None = None,
    state: Mapping[str, Tensor] | None = None,
    dense_gradients: float = 0.0,
    dense_steps: int = 0,
) -> Outcome:
    """Train all weights of the network, the maskable ones under masks that `update` and `after_step` may change.

    Args:
        masks: gives the masks at the start, for the task with its initial weights.
        update, after_step: called before and after each optimizer step, as in `SparseWeights`.
        state: tensors that `update` changes in place, by names of their own, for checkpoints.
        dense_gradients: the fraction of steps in which `update` needs the gradient of removed weights, for the cost.
        dense_steps: the number of steps to count as dense, and the others as if under the final masks.
    """
    if update is not None or after_step is not None:
        refuse_pattern(budget)
    watch = Stopwatch()
    task = task if settings.pretrained_weights else with_random_weights(task)
    start = MaskSet(masks(task))
    final, model = train_sparse(task, budget, settings, start, update=update, after_step=after_step, state=state)
    if (update or after_step) and final.hash() == start.hash():
        say(
            f"note: none of the {budget.steps} steps changed the mask: it is the one that it began with",
            task.accelerator,
        )
    sparse = Phase("training", budget.steps - dense_steps, final.kept_per_layer(), dense_gradients)
    phases = [Phase("training", dense_steps), sparse] if dense_steps else [sparse]
    return outcome_of(model, final, task, watch, phases, start=start, initial=task.base.model.state_dict())


def train_sparse(
    task: Task,
    budget: Budget,
    settings: HeadFlags,
    masks: Mapping[str, Tensor],
    *,
    update: Update | None = None,
    after_step: Update | None = None,
    before_step: BeforeStep = lambda step, model, sparse: None,
    lr_at: Callable[[int], float] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> tuple[MaskSet, nn.Module]:
    """Train the base's weights from where they are, the maskable ones under masks that the hooks may change.

    Args:
        update, after_step: called before and after each optimizer step, as in `SparseWeights`.
        before_step: called before each forward pass.
        lr_at: as in `train_network`.
        state: tensors that the hooks change in place, by names of their own, for checkpoints.

    Returns:
        The final masks, the same on every rank, and the trained network.
    """
    roles = all_of(task.base.model, task.maskable.weights)
    model = working_copy(task.base.model, own=roles.keys())
    rest, head = unfreeze(model, roles)
    parameters = dict(model.named_parameters())
    sparse: list[SparseWeights] = []

    def attach(optimizer: torch.optim.Optimizer) -> None:
        first_step = task.state.resumed.step if task.state is not None and task.state.resumed is not None else 0
        weights = {name: parameters[name] for name in task.maskable.weights}
        sparse.append(SparseWeights(weights, masks, optimizer, update, after_step=after_step, first_step=first_step))

    def named() -> dict[str, Tensor]:
        held = {f"mask.{name}": mask for name, mask in sparse[0].masks.items()}
        held |= {f"state.{name}": tensor for name, tensor in (state or {}).items()}
        return {**held, **{f"parameter.{name}": parameter for name, parameter in parameters.items()}}

    train_network(
        model,
        task,
        settings,
        rest=rest,
        head=head,
        steps=budget.steps,
        seed=budget.seed,
        title="train",
        named=named,
        prepare=attach,
        lr_at=lr_at,
        before_step=lambda step: before_step(step, model, sparse[0]),
    )
    average_norm_statistics(model, task.accelerator)
    final = MaskSet({name: mask.cpu() for name, mask in sparse[0].masks.items()})
    task.record.write("mask_hashes", by_rank=same_everywhere(final.hash(), task.accelerator, "the mask"))
    return final, model


def outcome_of(
    model: nn.Module,
    masks: MaskSet,
    task: Task,
    watch: Stopwatch,
    phases: Sequence[Phase],
    *,
    start: MaskSet | None = None,
    initial: Mapping[str, Tensor],
    initial_step: int = 0,
) -> Outcome:
    """The outcome of a run that trained every parameter of `model`.

    Args:
        initial, initial_step: the state dict that the final training began with, and the steps of dense training
            behind it.
    """
    return Outcome(
        masks,
        changed_tensors(model, all_of(model, task.maskable.weights)),
        sum(phase.steps for phase in phases),
        watch.seconds,
        start,
        phases=tuple(phases),
        initial={name: tensor.detach().cpu().clone() for name, tensor in initial.items()},
        initial_step=initial_step,
    )


def refuse_pattern(budget: Budget) -> None:
    """
    Raises:
        ConfigError: for a pattern, which masks that change weight by weight would not keep.
    """
    if budget.is_pattern:
        raise ConfigError(
            f"this method keeps layer counts, not patterns: replace --allocation {budget.allocation} by erk, global or "
            "uniform"
        )


def generator_at(budget: Budget, step: int) -> torch.Generator:
    """The random choices of one step of a run: the same on every process, and in a resumed run."""
    return torch.Generator().manual_seed((budget.seed * _STREAM + step) % 2**63)


def random_masks(task: Task, budget: Budget) -> MaskSet:
    """Masks at random positions, with the budget's counts."""
    return start_from("random", task, budget).masks
