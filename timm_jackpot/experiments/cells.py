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
from timm_jackpot.experiments.journal import Journal, JournalEntry, read_journal
from timm_jackpot.experiments.parts import Part, files_of_all_parts
from timm_jackpot.runtime.processes import from_main, same_everywhere, say

_PATIENCE = timedelta(minutes=5)  # how long a process whose cell failed waits for the others


@dataclass(frozen=True)
class Cell:
    """One unit of an experiment's work."""

    key: str  # in the journal
    title: str  # for people
    made_from: dict[str, Any]  # everything that determines the result, as JSON values
    run: Callable[[], Any]  # called on every process; what the main process returns is the result
    find: Callable[[JournalEntry | None], JournalEntry | None] = lambda entry: entry
    """Finds an existing result, given the journal's entry; for results stored elsewhere. Called on the main process."""


class CellResults(NamedTuple):
    """The results of all cells, the same on every process."""

    results: dict[str, Any]  # by key, in the order of the cells; without failed cells
    skipped: int  # number of results that existed already
    failures: list[str]  # title and reason of each failed cell
    left: int = 0  # cells that other parts have not run yet


def run_cells(
    cells: Sequence[Cell],
    journal: Path,
    accelerator: Accelerator,
    *,
    what: str,
    go_on: bool = False,
    part: Part | None = None,
    divide: bool = True,
) -> CellResults:
    """Run the cells that have no result yet, in order; each result is saved at once.

    Args:
        journal: the file that holds the results.
        what: what progress messages call a cell, such as "sweep: run".
        go_on: whether to continue after a cell fails; the next run tries it again.
        part: run only this part's share; results of the others are read from their journals, as far as they are there.
        divide: False if `cells` are this part's share already.

    Raises:
        ConfigError: if an existing result was made from other settings; nothing is run then.
        JackpotError: whatever a cell raises, unless `go_on`; earlier results are kept.
    """
    plan = json.dumps([(cell.key, cell.made_from) for cell in cells], sort_keys=True)
    same_everywhere(plan, accelerator, "the plan")
    part = part or Part()
    ours = {cell.key for cell in (part.share(cells) if divide else cells)}
    records = Journal(part.file(journal), accelerator)
    existing = from_main(accelerator, lambda: _existing_results(cells, journal))
    peers = dist.new_group(timeout=_PATIENCE, backend="gloo") if go_on and accelerator.num_processes > 1 else None
    results: dict[str, Any] = {}
    failures: list[str] = []
    to_do, started, done = len(ours - existing.keys()), time.monotonic(), 0
    for number, cell in enumerate(cells, 1):
        if cell.key in existing:
            results[cell.key] = existing[cell.key]
        if cell.key in existing or cell.key not in ours:
            continue
        remaining = (time.monotonic() - started) / done * (to_do - done) if done else None
        until_end = "" if remaining is None else f" ({tqdm.format_interval(remaining)} left in all)"
        say(f"{what} {number} of {len(cells)}: {cell.title}{until_end}", accelerator)
        records.note(cell.key, JournalEntry(cell.made_from))
        done += 1
        result, failure = _attempt(cell, go_on=go_on, peers=peers)
        if failure is None:
            results[cell.key] = records.note(cell.key, JournalEntry(cell.made_from, result)).result
        else:
            failures.append(f"{cell.title}: {failure}")
            say(f"{what} {number} failed: {failure}", accelerator)
    others = [cell for cell in cells if cell.key not in ours | existing.keys()]
    if others:  # they may have ended by now
        results |= from_main(accelerator, lambda: _existing_results(others, journal))
    left = sum(cell.key not in results for cell in others)
    in_order = {cell.key: results[cell.key] for cell in cells if cell.key in results}
    return CellResults(in_order, len(existing), failures, left)


def _existing_results(cells: Sequence[Cell], journal: Path) -> dict[str, Any]:
    entries: dict[str, JournalEntry] = {}
    for path in files_of_all_parts(journal):
        found = read_journal(path)
        entries |= {key: entry for key, entry in found.items() if entry.result is not None or key not in entries}
    found = {cell.key: cell.find(entries.get(cell.key)) for cell in cells}
    existing = {key: entry for key, entry in found.items() if entry is not None and entry.result is not None}
    for cell in cells:
        if cell.key in existing:
            existing[cell.key].check(cell.made_from, f"{journal.parent} holds {cell.key}")
    return {key: entry.result for key, entry in existing.items()}


def _attempt(cell: Cell, *, go_on: bool, peers: Any) -> tuple[Any, str | None]:
    """Run a cell: its result, or the reason it failed on any process; the same answer on all of them."""
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
        # Its own process group, so a process that failed does not disturb the collectives of the others' cell.
        dist.all_gather_object(said, None if failure is None else str(failure), group=peers)
    except RuntimeError:
        if failure is not None:
            raise failure from None
        raise
    return result, next((one for one in said if one is not None), None)
