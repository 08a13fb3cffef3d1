"""Train parameters of a network on a task: scores, heads, norms, or everything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from timm_jackpot.base import (
    Base,
    Filters,
    classifier_parameters,
    copy_tensors,
    norm_affine,
    norm_layers,
    norm_statistics,
)
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.task import ChangedTensor, Role, Task
from timm_jackpot.schema import Settings
from timm_jackpot.training import (
    Objective,
    OptimFlags,
    Record,
    RunTensors,
    average_norm_statistics,
    fit,
    learning_rate,
    make_mixer,
    make_optimizer,
    uses_channels_last,
)

_WARM_SEED = 1_000_003  # so that the search does not see the warm-up's batches again in the same order


class HeadFlags(OptimFlags):
    """How a head is trained."""

    group: ClassVar[str] = "Search"

    head_lr: float | None = Field(default=None, ge=1e-12, le=1e6)
    """Peak learning rate of a new or trained head. Default: that of the rest."""


class AlongFlags(Settings):
    """What is trained along with masks."""

    group: ClassVar[str] = "Search"

    train_norm: bool = False
    """Also train the scales and shifts of normalization layers."""
    train_head: bool = False
    """Also train the classifier; a new one is always trained."""


class WarmHeadFlags(HeadFlags):
    """How a head is trained that may be warmed up alone."""

    group: ClassVar[str] = "Search"

    head_steps: int = Field(default=0, ge=0, le=10**9)
    """Steps at the start, out of the run's steps, in which only a new head is trained."""


def train_network(
    model: nn.Module,
    task: Task,
    settings: HeadFlags,
    *,
    rest: Sequence[nn.Parameter],
    head: Sequence[nn.Parameter],
    steps: int,
    seed: int,
    title: str,
    named: Callable[[], Mapping[str, Tensor]] | None = None,
    objective: Objective | None = None,
    frozen_statistics: bool = False,
    prepare: Callable[[Any], None] = lambda optimizer: None,
    lr_at: Callable[[int], float] | None = None,
    before_step: Callable[[int], None] = lambda step: None,
    figures: Callable[[], dict[str, float]] = dict,
) -> None:
    """Take `steps` optimizer steps on the task's training images, from the checkpoint to resume if there is one.

    Args:
        rest, head: the parameters to train at `lr` and at `head_lr`.
        named: gives the tensors, besides buffers, that training changes, by name. Default: rest and head.
        frozen_statistics: keep norm layers with running statistics in eval mode.
        prepare: called once with the new optimizer.
        lr_at: learning rate at a step. Default: the schedule in `settings`.
        before_step, figures: as in `fit`.

    Raises:
        TrainingError: as `fit`.
    """
    groups: list[dict[str, Any]] = [{"params": [*rest]}] if rest else []
    if head:
        groups.append({"params": [*head], "lr_scale": (settings.head_lr or settings.lr) / settings.lr})
    optimizer = make_optimizer(settings, groups)
    prepare(optimizer)
    trained = {f"trained.{i}": parameter for i, parameter in enumerate((*rest, *head))}
    tensors = RunTensors(named or (lambda: trained), model, optimizer, task.accelerator)
    resumed = task.state.resumed if task.state is not None else None
    if resumed is not None:
        tensors.restore(resumed.tensors)
    first_step = resumed.step if resumed is not None else 0
    if steps > first_step:
        fit(
            accelerator=task.accelerator,
            model=model,
            optimizer=optimizer,
            objective=objective or Objective(settings.label_smoothing),
            train=task.data.train,
            batch_size=task.batch_size,
            seed=seed,
            steps=steps,
            lr_at=lr_at or (lambda step: learning_rate(settings, step, steps)),
            record=task.record,
            title=title,
            before_step=before_step,
            after_step=lambda step: task.state.after_step(step, steps, tensors.current) if task.state else None,
            first_step=first_step,
            figures=figures,
            mix=make_mixer(settings, task.data.num_classes, task.batch_size, seed),
            keep_in_eval=[layer for _, layer in norm_layers(model)] if frozen_statistics else (),
            torchcompile=task.run.torchcompile,
            channels_last=uses_channels_last(task.run, task.accelerator.device),
        )
    if task.state is not None:
        task.state.after_all_steps()


def warm_head(
    model: nn.Module, head: Sequence[nn.Parameter], task: Task, budget: Budget, settings: WarmHeadFlags
) -> int:
    """Train a new head alone for `head_steps` steps: gradients through an untrained head say nothing about weights.

    Returns:
        The steps that are left of the budget's.

    Raises:
        ConfigError: if the head is not new, or the budget has fewer steps.
    """
    steps = settings.head_steps
    if steps and not task.base.new_head:
        raise ConfigError("--head-steps trains a new head first, and this base keeps its own: leave it out")
    if steps > budget.steps:
        raise ConfigError(f"--head-steps {steps} are more than the run's {budget.steps} steps: lower them")
    if steps and not (task.state and task.state.resumed):
        with task.state.before_first_step() if task.state else nullcontext():
            train_network(
                model,
                replace(task, record=Record(), state=None),
                settings,
                rest=(),
                head=head,
                steps=steps,
                seed=(budget.seed + _WARM_SEED) % 2**31,
                title="head",
                frozen_statistics=True,
            )
    return budget.steps - steps


def train_along(model: nn.Module, trained: Mapping[str, Role], task: Task, budget: Budget, settings: HeadFlags) -> None:
    """Train the head, and the norms if they are in `trained`, of a network whose weights and masks are fixed.

    Norm statistics do not move, so that this costs little more than the forward passes.
    """
    rest, head = unfreeze(model, trained)
    train_network(
        model,
        task,
        settings,
        rest=rest,
        head=head,
        steps=budget.steps,
        seed=budget.seed,
        title="head",
        frozen_statistics=True,
    )
    average_norm_statistics(model, task.accelerator)


def unfreeze(model: nn.Module, roles: Mapping[str, Role]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Let the parameters named in `roles` be trained; returns those outside the head, and those of the head."""
    parameters = dict(model.named_parameters())
    for name in roles:
        parameters[name].requires_grad_(True)
    rest = [parameters[name] for name, role in roles.items() if role != "head"]
    return rest, [parameters[name] for name, role in roles.items() if role == "head"]


def changed_tensors(
    model: nn.Module, roles: Mapping[str, Role], *, statistics: bool = True
) -> dict[str, ChangedTensor]:
    """Copies of what training changed: the parameters in `roles` and, if they moved, norm statistics."""
    moved: dict[str, Role] = dict.fromkeys(norm_statistics(model) if statistics else (), "norm_statistics")
    moved |= roles
    return {name: ChangedTensor(moved[name], tensor) for name, tensor in copy_tensors(model, moved).items()}


def trained_parameters(base: Base, masked: Collection[str], settings: AlongFlags) -> dict[str, Role]:
    """The parameters that are trained along with masks, and their roles: those of a new head always.

    Raises:
        BaseError: if the settings ask to train parameters that the base does not have.
    """
    trained: dict[str, Role] = head_of(base, masked) if base.new_head or settings.train_head else {}
    return trained | (norms_of(base) if settings.train_norm else {})


def affine_of(filters: Filters | None) -> dict[str, Role]:
    """The scales and shifts that removed filters take along, and their role."""
    names = [name for weight in filters.norms for name in filters.affine(weight)] if filters is not None else []
    return dict.fromkeys(names, "norm_affine")


def head_of(base: Base, masked: Collection[str] = ()) -> dict[str, Role]:
    """The parameters of the classifier that are not masked.

    Raises:
        BaseError: if there are none.
    """
    names = [name for name in classifier_parameters(base.model) if name not in masked]
    if not names:
        raise BaseError(f"{base.ref.name} has no classifier to train")
    return dict.fromkeys(names, "head")


def all_of(model: nn.Module, masked: Collection[str] = ()) -> dict[str, Role]:
    """Every parameter, and its role; those of the classifier that are masked count as weights."""
    roles: dict[str, Role] = dict.fromkeys((name for name, _ in model.named_parameters()), "weights")
    norms: dict[str, Role] = dict.fromkeys(norm_affine(model), "norm_affine")
    head: dict[str, Role] = dict.fromkeys(classifier_parameters(model).keys() - set(masked), "head")
    return {**roles, **norms, **head}


def norms_of(base: Base) -> dict[str, Role]:
    """Scales and shifts of norms outside the classifier.

    Raises:
        BaseError: if there are none.
    """
    head = classifier_parameters(base.model)
    names = [name for name in norm_affine(base.model) if name not in head]
    if not names:
        raise BaseError(f"{base.ref.name} has no norm scales and shifts to train")
    return dict.fromkeys(names, "norm_affine")
