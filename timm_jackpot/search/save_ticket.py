"""Describe and save a trained ticket, and the mask on the weights that it began from."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor, nn

from timm_jackpot.artifact import (
    INITIAL,
    INNER,
    TICKET,
    TICKET_FORMAT,
    Jackpot,
    Spent,
    Ticket,
    TicketLayer,
    TicketPhase,
    artifact_files,
    replace_folder,
    timm_checkpoint,
)
from timm_jackpot.artifact.schema import Producer
from timm_jackpot.base import Base, load_base
from timm_jackpot.masks import MaskSet, kept_count
from timm_jackpot.methods import Budget, Outcome, Phase, Task, cost_of
from timm_jackpot.methods.tickets import magnitude_correlation
from timm_jackpot.search.config import RunConfig
from timm_jackpot.search.save import published_settings
from timm_jackpot.training import Record

_RECORD, _RECIPE = "record.jsonl", "recipe.yaml"
TICKET_FILES = {TICKET, INITIAL, INNER, "model.safetensors", "config.json", _RECORD, _RECIPE}


def ticket_of(
    task: Task, budget: Budget, outcome: Outcome, config: RunConfig, results: Mapping[str, Any]
) -> tuple[Ticket, Jackpot | None, bytes | None]:
    """The ticket, its mask on the weights that it began from (None: it is dense), and those weights as a file.

    There is no file where the ticket began from the weights of its base.
    """
    from timm_jackpot import __version__

    initial = None if _began_from_base(task, outcome) else save(_contiguous(outcome.initial or {}))
    base = task.base if initial is None else _loaded(initial, task)
    masks = outcome.masks or MaskSet({})
    cost = cost_of(task, outcome)
    kept, total = masks.kept_per_layer(), {name: mask.numel() for name, mask in masks.items()}
    everything = sum(task.maskable.sizes.values())
    ticket = Ticket(
        format=TICKET_FORMAT,
        kind="ticket",
        producer=Producer(name="timm_jackpot", version=__version__),
        method=config.method,
        settings=published_settings(config),
        base=task.base.ref,
        initial=base.ref.digest,
        rewind_step=outcome.initial_step,
        sparsity=budget.sparsity,
        layers=[TicketLayer(name=name, kept=kept[name], total=total[name]) for name in masks],
        mask_hash=masks.hash() if outcome.masks is not None else None,
        phases=[TicketPhase(title=p.title, steps=p.steps, kept=_kept(p, everything)) for p in outcome.phases],
        spent=Spent(
            epochs=cost.epochs,
            forward_flops=cost.forward_flops,
            backward_flops=cost.backward_flops,
            seconds=cost.seconds,
        ),
        correlation=_correlation(outcome),
        results=dict(results),
    )
    return ticket, _jackpot_of(base, masks, task, budget) if outcome.masks is not None else None, initial


def save_ticket(
    folder: Path,
    ticket: Ticket,
    network: nn.Module,
    jackpot: Jackpot | None,
    initial: bytes | None,
    record: Record,
    config: RunConfig,
) -> None:
    """Write a ticket's folder: all of it, or nothing.

    Raises:
        ArtifactError: if it cannot be written.
    """
    files = {TICKET: (ticket.model_dump_json(indent=1) + "\n").encode(), **timm_checkpoint(network)}
    if jackpot is not None:
        files |= {f"{INNER}/{name}": content for name, content in artifact_files(jackpot).items()}
    if initial is not None:
        files[INITIAL] = initial
    files[_RECORD] = record.lines().encode()
    files[_RECIPE] = yaml.safe_dump(published_settings(config), sort_keys=False).encode()
    replace_folder(folder.resolve(), files)


def _began_from_base(task: Task, outcome: Outcome) -> bool:
    if outcome.initial is None:
        return True
    if not task.pretrained:  # random weights, which are nowhere else
        return False
    state = task.base.model.state_dict()
    return all(torch.equal(tensor, state[name].cpu()) for name, tensor in outcome.initial.items())


def _loaded(weights: bytes, task: Task) -> Base:
    """The architecture of the task's base with these weights."""
    ref = task.base.ref
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / INITIAL
        path.write_bytes(weights)
        return load_base(
            ref.architecture,
            model_kwargs=ref.model_kwargs,
            base_checkpoint=path,
            num_classes=ref.num_classes,
            in_chans=ref.in_chans,
            img_size=ref.img_size,
        )


def _jackpot_of(base: Base, masks: MaskSet, task: Task, budget: Budget) -> Jackpot:
    if masks.kept != kept_count(masks.total, budget.sparsity):  # it emerged, and no layer was told its count
        emerged = f"{Decimal(masks.total - masks.kept) / masks.total:.12f}"
        budget = replace(budget, sparsity=emerged, allocation="global")
    return Jackpot(
        base=base,
        maskable=task.maskable,
        masks=masks,
        extras={},
        sparsity=budget.sparsity,
        allocation=budget.allocation,
        data=task.data.config,
    )


def _correlation(outcome: Outcome) -> float | None:
    if not outcome.masks or outcome.initial is None:
        return None
    trained = {name: outcome.changed[name].tensor for name in outcome.masks}
    return magnitude_correlation(outcome.initial, trained, outcome.masks)


def _kept(phase: Phase, everything: int) -> int:
    return everything if phase.kept is None else sum(phase.kept.values())


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
