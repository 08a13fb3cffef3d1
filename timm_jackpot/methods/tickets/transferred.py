"""A ticket that was found elsewhere, trained on this task: mask and initialization, or the mask alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from timm_jackpot.artifact import INITIAL, INNER, open_artifact, read_artifact, read_ticket
from timm_jackpot.base import classifier_parameters
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fresh import with_random_weights
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.run import outcome_of, train_sparse
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import HeadFlags


class TransferredTicketSettings(HeadFlags):
    """Settings of a transferred ticket."""

    group: ClassVar[str] = "Search"

    lr: float = Field(default=0.1, ge=1e-12, le=1e6)
    """Peak learning rate."""
    ticket: str | None = None
    """Folder of the ticket, which may have been found on other data. Its sparsity counts, not --sparsity."""
    initial_weights: Literal["ticket", "random"] = "ticket"
    """Train the weights that the ticket began from (initialization transfer), or random ones under its mask (mask
    transfer). The classifier is random in both."""


@register_method("transferred_ticket", family="ticket", paper="arXiv:1906.02773", finds_jackpots=False)
def transferred_ticket(task: Task, budget: Budget, settings: TransferredTicketSettings) -> Outcome:
    """A ticket found on other data, trained here: its mask with the weights that it began from, or with random ones."""
    if settings.ticket is None:
        raise ConfigError("name the ticket to transfer: --ticket FOLDER")
    watch = Stopwatch()
    masks, weights = _mask_and_weights(Path(settings.ticket), task)
    if {name: mask.shape for name, mask in masks.items()} != {n: w.shape for n, w in task.maskable.weights.items()}:
        raise ConfigError(f"{settings.ticket} masks other weights than this network has: use its own architecture")
    task = with_random_weights(task)
    if settings.initial_weights == "ticket":
        model = task.base.model
        classifier = classifier_parameters(model)
        state = {name: tensor for name, tensor in model.state_dict().items() if name not in classifier}
        for name, tensor in state.items():
            tensor.copy_(weights[name])
    initial = task.base.model.state_dict()
    final, trained = train_sparse(task, budget, settings, masks)
    phases = [Phase("training", budget.steps, final.kept_per_layer())]
    return outcome_of(trained, final, task, watch, phases, start=masks, initial=initial)


def _mask_and_weights(folder: Path, task: Task) -> tuple[MaskSet, Mapping[str, Tensor]]:
    """A ticket's mask, and the weights that it began from.

    Raises:
        ArtifactError, BaseMismatchError: if they are damaged.
        ConfigError: if it has no mask, or began from a base that is not this task's.
    """
    ticket = read_ticket(folder)
    if ticket.mask_hash is None:
        raise ConfigError(f"{folder} holds a dense network, without a mask to transfer")
    if (folder / INITIAL).exists():
        artifact, base = open_artifact(folder / INNER, base_checkpoint=folder / INITIAL)
    elif ticket.initial == task.base.ref.digest:
        artifact, base = read_artifact(folder / INNER), task.base
    else:
        raise ConfigError(
            f"{folder} began from the weights of {ticket.base.name}: transfer it to a task with that base"
        )
    return artifact.masks_on(base), base.model.state_dict()
