"""`audit_tickets`: from a folder of trained tickets to the answers to all five principles."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, stdev

from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.tickets.grid import read_grid
from timm_jackpot.audit.tickets.judge import Judged, best_rate, judge, open_ticket_data
from timm_jackpot.audit.tickets.networks import open_network, way_from_start
from timm_jackpot.audit.write import write_ticket_report
from timm_jackpot.data import shared_images
from timm_jackpot.evidence import (
    Interval,
    TicketReport,
    TicketRow,
    answer_principles,
    paired_intervals,
    plain_text,
    similar_margin,
    verdict_of,
)
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import device_name, make_accelerator, say


def audit_tickets(config: AuditConfig) -> TicketReport:
    """Ask the five principles of the tickets in `config.tickets`, and write audit.json and audit.md.

    Networks are loaded and judged on the test split here. Of every role, the learning rate with the best top-1 on
    held-out images counts.

    Raises:
        ConfigError: if tickets are missing or cannot be compared.
        ArtifactError: if a ticket is damaged, or did not begin from the weights that its seed draws.
        DataError: if the data cannot be read.
    """
    accelerator, folder = make_accelerator(seed=0), check_output(config.output or str(config.tickets))
    grid = read_grid(str(config.tickets))
    first = grid.first
    if grid.left_out:
        say(f"note: no principle asks about {', '.join(grid.left_out)}", accelerator)
    say(f"the ticket under audit is {first.ticket.method}", accelerator)
    maskable = [layer.name for layer in first.ticket.layers]
    ours = open_network(first, maskable)
    assert ours.masks is not None
    assert ours.config is not None
    data = open_ticket_data(grid, config, ours.model, ours.config, accelerator)
    judged = judge(grid, maskable, data, config.batch_size, accelerator)
    chosen = {role: best_rate(by_lr) for role, by_lr in judged.items()}
    top1, ahead = _intervals(judged, chosen)
    margin = config.similar_margin if config.similar_margin is not None else similar_margin(data.name)
    leaked = shared_images(data.test, [data.train, *([data.val] if data.val is not None else [])])
    principles = answer_principles(
        kept=ours.masks.kept,
        total=ours.masks.total,
        gaps={role: ahead[role] for role in ("random_reinit",) if role in ahead},
        behind_dense={"dense": ahead["dense"].negated()} if "dense" in ahead else {},
        similar_margin=margin,
        small_dense=ahead.get("small_dense"),
        behind_same_lr={lr: ahead[f"dense {lr}"].negated() for lr in judged.get("dense", {})},
    )
    images = int(judged["ticket"][chosen["ticket"]].correct.shape[1])
    verdict = verdict_of(principles, test_images=images, leaked_test_images=leaked, shuffled_ahead=None, all_asked=True)
    report = TicketReport(
        format=1,
        kind="tickets",
        architecture=first.ticket.base.architecture,
        method=first.ticket.method,
        kept=ours.masks.kept,
        total=ours.masks.total,
        seeds=grid.seeds,
        dataset=plain_text(data.name),
        test_images=images,
        validation_images=len(data.val) if data.val is not None else 0,
        leaked_test_images=leaked,
        rows=[
            _row(one, top1[f"{role} {lr}"], chosen=lr == chosen[role])
            for role, by_lr in judged.items()
            for lr, one in by_lr.items()
        ],
        same_masks=_same_masks(judged),
        way_from_start=_way_from_start(judged["ticket"]),
        similar_margin=margin,
        principles=principles,
        verdict=verdict,
        device=plain_text(device_name(accelerator.device)),
    )
    if accelerator.is_main_process:
        write_ticket_report(report, folder)
        say(f"audit: written to {folder}", accelerator)
    return report


def _intervals(
    judged: Mapping[str, Mapping[float, Judged]], chosen: Mapping[str, float]
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Top-1 by "role lr"; points by which the ticket is ahead of each role at their best rates, and of "dense lr" at
    each."""
    correct = {f"{role} {lr}": one.correct for role, by_lr in judged.items() for lr, one in by_lr.items()}
    pairs = {role: (f"ticket {chosen['ticket']}", f"{role} {lr}") for role, lr in chosen.items() if role != "ticket"}
    pairs |= {f"dense {lr}": (f"ticket {lr}", f"dense {lr}") for lr in judged.get("dense", {})}
    top1, differences = paired_intervals(correct, [*pairs.values()])
    return top1, {name: differences[pair] for name, pair in pairs.items()}


def _row(judged: Judged, top1: Interval, *, chosen: bool) -> TicketRow:
    first, accuracies = judged.found[0], [100 * float(row.mean()) for row in judged.correct]
    return TicketRow(
        role=str(first.role),
        lr=first.lr,
        weights=judged.networks[0].weights,
        last_steps=first.last_steps,
        epochs=round(sum(first.ticket.spent.epochs.values()), 2),
        validation=judged.validation,
        top1=top1,
        std=stdev(accuracies) if len(accuracies) > 1 else None,
        chosen=chosen,
    )


def _same_masks(judged: Mapping[str, Mapping[float, Judged]]) -> float | None:
    """The fraction of re-initialized networks that have the mask of the ticket with their learning rate and seed."""
    same = [
        one.masks == other.masks
        for lr, control in judged.get("random_reinit", {}).items()
        for one, other in zip(control.networks, judged["ticket"][lr].networks, strict=True)
    ]
    return sum(same) / len(same) if same else None


def _way_from_start(judged: Mapping[float, Judged]) -> float | None:
    several = [pair for one in judged.values() for pair in zip(one.found, one.networks, strict=True)]
    if several[0][0].ticket.method == "lottery_ticket":
        return None
    return mean(way_from_start(found, network) for found, network in several)
