"""`train_ticket`: a whole run of a method that trains weights, from settings to a measured and saved ticket."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from timm_jackpot.artifact import TICKET, Ticket, is_ticket, read_ticket, recover_folder
from timm_jackpot.data import ImageSource
from timm_jackpot.errors import ConfigError
from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.methods import Budget, Task, build_network, method
from timm_jackpot.runtime.lock import locked
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import device_name, launched_as_main
from timm_jackpot.search.config import AUTO, RunConfig
from timm_jackpot.search.save import fresh_output, published_settings
from timm_jackpot.search.save_ticket import TICKET_FILES, save_ticket, ticket_of
from timm_jackpot.search.task import open_task, steps_of
from timm_jackpot.training import CHECKPOINTS, check_run_folder, open_run, run_accelerator


@dataclass(frozen=True, repr=False)
class TicketResult:
    """A trained ticket, its network (a plain module in eval mode), and the summary that the verb prints."""

    ticket: Ticket
    model: nn.Module
    summary: dict[str, Any]


def train_ticket(config: RunConfig) -> TicketResult:
    """Find and train one ticket, evaluate it once on the test split, and save it.

    The main process writes it to `config.output` (default: a new folder in runs/).

    Raises:
        JackpotError: if the model, the data or the settings are not usable; raised before any training.
    """
    if not method(config.method).trains_tickets:
        raise ConfigError(
            f"the method {config.method} does not give a mask that an artifact can hold: compare --methods and audit "
            "--beside show its accuracy"
        )
    if config.sparsity == AUTO:
        raise ConfigError(f"only searches for a jackpot choose a sparsity: give --sparsity a number, not {AUTO}")
    accelerator = run_accelerator(config, config.output or "runs/ticket")
    folder = check_output(config.output) if config.output else fresh_output(config)
    with open_run(folder, accelerator, config, settings=published_settings(config), digest=_digest) as state:
        check_run_folder(folder, result=TICKET_FILES, finished=is_ticket(folder), overwrite=state.overwrite)
        task, _ = open_task(config, None, accelerator)
        steps = steps_of(config, len(task.data.train), accelerator)
        budget = Budget.of(config, steps=steps, seed=config.seed)
        subject = f"{config.method}: {task.base.ref.architecture}, sparsity {config.sparsity}"
        state.begin(subject, task.data, config, steps, base=task.base.ref.digest)
        with state.recorded() as record:
            outcome = method(config.method).run(replace(task, record=record, state=state), budget, config)
            state.after_all_steps()
            network = build_network(task, outcome)
            results = _measured(network, task, config)
            ticket, jackpot, initial = ticket_of(task, budget, outcome, config, results)
            record.write("result", **results)
            record.close()
            if accelerator.is_main_process:
                save_ticket(folder, ticket, network, jackpot, initial, record, config)
    return TicketResult(ticket, network, summary_of(ticket, folder))


def finished_ticket(config: RunConfig) -> dict[str, Any] | None:
    """The summary of a finished run with these settings in the output folder of `--resume auto`; None if there is none.

    Raises:
        JackpotError: if another run is using the folder, or its ticket is damaged.
    """
    if config.resume != "auto" or config.output is None or config.overwrite:
        return None
    folder = check_output(config.output)
    if launched_as_main():
        with locked(folder):
            recover_folder(folder)
    if not is_ticket(folder) or (folder / CHECKPOINTS).exists():
        return None
    ticket = read_ticket(folder)
    return summary_of(ticket, folder) if ticket.settings == published_settings(config) else None


def summary_of(ticket: Ticket, folder: Path) -> dict[str, Any]:
    """What the verb prints."""
    return {**results_of(ticket), "ticket": str(folder)}


def results_of(ticket: Ticket) -> dict[str, Any]:
    """What a ticket is, what it achieves, and what it took."""
    kept, total = (sum(getattr(layer, key) for layer in ticket.layers) for key in ("kept", "total"))
    return {
        "method": ticket.method,
        "model": ticket.base.architecture,
        "sparsity": 1 - kept / total if total else 0.0,
        **ticket.results,
        "epochs": round(sum(ticket.spent.epochs.values()), 2),
        "seconds": ticket.spent.seconds,
        "forward_flops": ticket.spent.forward_flops,
        "backward_flops": ticket.spent.backward_flops,
        "correlation": ticket.correlation,
        "mask_hash": ticket.mask_hash,
    }


def _measured(network: nn.Module, task: Task, config: RunConfig) -> dict[str, Any]:
    """Accuracy on the test split, read once, and on held-out training images if there are any."""
    data, accelerator = task.data, task.accelerator

    def accuracy(source: ImageSource) -> Accuracy:
        return evaluate_accuracy(network, source, batch_size=task.batch_size, accelerator=accelerator)

    test = accuracy(data.test)
    return {
        "dataset": data.name,
        "top1": test.top1,
        "top5": test.top5,
        "test_images": test.n,
        "validation_top1": accuracy(data.val).top1 if data.val is not None else None,
        "seed": config.seed,
        "processes": accelerator.num_processes,
        "device": device_name(accelerator.device),
    }


def _digest(folder: Path) -> str | None:
    """The sha256 of ticket.json; None without a ticket."""
    return hashlib.sha256((folder / TICKET).read_bytes()).hexdigest() if is_ticket(folder) else None
