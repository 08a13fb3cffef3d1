"""Trained networks as rows in the audit of a jackpot."""

from __future__ import annotations

from functools import partial

from timm_jackpot.artifact import Artifact
from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.evaluate import AuditRow
from timm_jackpot.audit.tickets.grid import read_grid
from timm_jackpot.audit.tickets.judge import Judged, best_rate, judge, open_ticket_data
from timm_jackpot.audit.tickets.networks import TicketNetwork
from timm_jackpot.errors import ConfigError
from timm_jackpot.evidence import DENSE_ROW, SMALL_DENSE_ROW
from timm_jackpot.masks import kept_count
from timm_jackpot.methods import Outcome, Task
from timm_jackpot.runtime.processes import say
from timm_jackpot.search import RunConfig


def trained_rows(config: AuditConfig, artifact: Artifact, task: Task, search: RunConfig) -> tuple[list[AuditRow], str]:
    """Rows for ② and ④ in the audit of a jackpot: small dense networks at their best learning rate, and dense training
    at the search's; and a digest of the tickets. Tickets of other roles, and other rates, are left alone.

    Raises:
        ConfigError: if there are none, or they do not have the jackpot's data, architecture and sparsity.
        ArtifactError: as `judge`.
    """
    grid, masks = read_grid(str(config.tickets), ("small_dense", "dense")), task.masks_to_control()
    ours, theirs = artifact.config.base, grid.first.ticket.base
    if any(getattr(ours, key) != getattr(theirs, key) for key in ("architecture", "num_classes", "in_chans")):
        raise ConfigError(
            f"the tickets are of {theirs.architecture} with {theirs.num_classes} classes, and the jackpot of "
            f"{ours.architecture} with {ours.num_classes}: train tickets of its architecture"
        )
    for small in grid.tickets.get("small_dense", {}).values():
        if kept_count(masks.total, small[0].ticket.sparsity) != masks.kept:
            raise ConfigError(
                f"the small dense networks were made for a sparsity of {small[0].ticket.sparsity}, and the jackpot's "
                f"is {artifact.config.sparsity.requested}: train them with that --sparsity"
            )
    data = open_ticket_data(grid, config, task.base.model, artifact.config, task.accelerator)
    judged = judge(grid, list(masks), data, task.batch_size, task.accelerator)
    chosen: dict[str, Judged] = {}
    if small := judged.get("small_dense"):
        chosen[SMALL_DENSE_ROW] = small[best_rate(small)]
    lr = getattr(search, "lr", None)
    if lr in judged.get("dense", {}):
        chosen[DENSE_ROW] = judged["dense"][lr]
    elif "dense" in judged:
        say(
            f"note: ④ is not asked, as no dense network was trained at the search's learning rate, {lr}",
            task.accelerator,
        )
    rows = [
        AuditRow(name, partial(_as_trained, network, task), seed=found.seed)
        for name, those in chosen.items()
        for found, network in zip(those.found, those.networks, strict=True)
    ]
    return rows, grid.digest


def _as_trained(network: TicketNetwork, task: Task) -> Outcome:
    return Outcome(None, {}, 0, 0.0, network=network.model.to(task.accelerator.device))
