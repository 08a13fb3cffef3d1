"""The cells of an experiment, and the one loop that runs them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from accelerate import Accelerator
from tqdm import tqdm

from timm_jackpot.errors import JackpotError, RunInterrupted
from timm_jackpot.experiments.journal import Journal, JournalEntry
from timm_jackpot.runtime.processes import from_main, same_everywhere, say

_PATIENCE = timedelta(minutes=5)  # of a process whose cell failed, with one that has not ended it


@dataclass(frozen=True)
class Cell:
    """One piece of an experiment's work."""

    key: str  # in the journal
    title: str  # for people
    made_from: dict[str, Any]  # whatever fixes the result, as JSON has it
    run: Callable[[], Any]  # called on every process; what the main process returns is the result
    find: Callable[[JournalEntry | None], JournalEntry | None] = lambda noted: noted
    """From the journal's entry to what there is: for results that lie elsewhere. Called on the main process."""


class CellResults(NamedTuple):
    """What became of the cells, the same on every process."""

    results: dict[str, Any]  # by key, in the order of the cells; without those that failed
    skipped: int  # how many were there already
    failures: list[str]  # of each cell that failed, its title and why


def run_cells(
    cells: Sequence[Cell], journal: Path, accelerator: Accelerator, *, what: str, go_on: bool = False
) -> CellResults:
    """Run the cells whose results are not there yet, in order; each result is noted as soon as it is there.

    Args:
        journal: the file that holds the results.
        what: what the progress lines call a cell, as in "sweep: run".
        go_on: whether to go on with the others after a cell that fails; it is tried again the next time.

    Raises:
        ConfigError: if a result that is there was made from other settings; nothing is run then.
        JackpotError: whatever a cell raises, unless `go_on`; the results before it are kept.
    """
    plan = json.dumps([(cell.key, cell.made_from) for cell in cells], sort_keys=True)
    same_everywhere(plan, accelerator, "the plan")
    book = Journal(journal, accelerator)
    there = from_main(accelerator, lambda: _already_there(cells, book))
    peers = dist.new_group(timeout=_PATIENCE, backend="gloo") if go_on and accelerator.num_processes > 1 else None
    results: dict[str, Any] = {}
    failures: list[str] = []
    left, started, done = len(cells) - len(there), time.monotonic(), 0
    for number, cell in enumerate(cells, 1):
        if cell.key in there:
            results[cell.key] = there[cell.key]
            continue
        remaining = (time.monotonic() - started) / done * (left - done) if done else None
        until_end = "" if remaining is None else f" ({tqdm.format_interval(remaining)} left in all)"
        say(f"{what} {number} of {len(cells)}: {cell.title}{until_end}", accelerator)
        book.note(cell.key, JournalEntry(cell.made_from))
        done += 1
        result, failure = _attempt(cell, go_on=go_on, peers=peers)
        if failure is None:
            results[cell.key] = book.note(cell.key, JournalEntry(cell.made_from, result)).result
        else:
            failures.append(f"{cell.title}: {failure}")
            say(f"{what} {number} failed: {failure}", accelerator)
    return CellResults(results, len(there), failures)


def _already_there(cells: Sequence[Cell], journal: Journal) -> dict[str, Any]:
    found = {cell.key: cell.find(journal.entries.get(cell.key)) for cell in cells}
    there = {key: entry for key, entry in found.items() if entry is not None and entry.result is not None}
    for cell in cells:
        if cell.key in there:
            there[cell.key].check(cell.made_from, f"{journal.path.parent} holds {cell.key}")
    return {key: entry.result for key, entry in there.items()}


def _attempt(cell: Cell, *, go_on: bool, peers: Any) -> tuple[Any, str | None]:
    """The result of a cell, or why it failed, on whichever process: all agree."""
    result, failure = None, None
    try:
        result = cell.run()
    except RunInterrupted:
        raise
    except JackpotError as error:
        if not go_on:
            raise
        failure = error
    if peers is None:
        return result, None if failure is None else str(failure)
    said: list[str | None] = [None] * dist.get_world_size()
    try:
        # In a group of its own: a process that failed alone must not answer to what the others exchange in their cell.
        dist.all_gather_object(said, None if failure is None else str(failure), group=peers)
    except RuntimeError:
        if failure is not None:
            raise failure from None
        raise
    return result, next((one for one in said if one is not None), None)
