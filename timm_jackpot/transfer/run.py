"""Search what is not there, judge what is not judged, and write the matrix from the records of both."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timm_jackpot.artifact import read_artifact
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import ConfigError, JackpotError, TrainingError
from timm_jackpot.lock import locked
from timm_jackpot.masks import MaskSet
from timm_jackpot.outputs import check_output, write_atomically
from timm_jackpot.plots import transfer_figure
from timm_jackpot.processes import make_accelerator, say
from timm_jackpot.sweeps.journal import Journal
from timm_jackpot.sweeps.searches import PlannedSearch, run_missing
from timm_jackpot.sweeps.table import csv_table
from timm_jackpot.transfer.judge import Target, judge_mask, open_target
from timm_jackpot.transfer.plan import TransferConfig, TransferPlan, plan_transfer
from timm_jackpot.transfer.rows import Row, rows_of
from timm_jackpot.transfer.table import matrix_means, matrix_table

Cell = dict[str, Any]  # one mask on one target with one seed, as the record has it


@dataclass(frozen=True)
class TransferResult:
    cells: list[Cell]
    table: str  # markdown
    summary: dict[str, Any]  # what the verb prints as its last line


def transfer_masks(config: TransferConfig) -> TransferResult:
    """Search every source, judge every mask on every target, and write matrix.csv, matrix.md and matrix.png.

    Searches and cells that the output folder holds already, made with the same settings, are not done again. A cell
    that fails leaves its place empty, and the others go on.

    Raises:
        ConfigError: for settings that make no sense, or a folder that holds other runs; nothing is run then.
        DataError, BaseError: if a target cannot be opened; nothing is run then.
        JackpotError: whatever a search raises; the runs before it are kept.
        TrainingError: after the matrix was written, if cells failed; the next run tries them again.
    """
    plan, folder = plan_transfer(config), check_output(config.output)
    accelerator = make_accelerator(seed=0)
    if accelerator.num_processes > 1:  # each search ends its process group, and the next one finds none
        raise ConfigError("a transfer is many short runs, one after the other, in one process: start it with python -m")
    with locked(folder):
        return _transfer(plan, folder, accelerator)


def _transfer(plan: TransferPlan, folder: Path, accelerator: Accelerator) -> TransferResult:
    first = plan.seeds[0]
    targets = {name: open_target(name, searches[first], accelerator) for name, searches in plan.targets.items()}
    searches = [
        PlannedSearch(f"source {name}, seed {seed}", folder / "sources" / name / f"seed{seed}", search)
        for name, by_seed in plan.sources.items()
        for seed, search in by_seed.items()
    ]
    skipped = run_missing(searches, Journal(folder / "runs.json"), "transfer")
    accelerator = make_accelerator(seed=0)  # a search's own may gather gradients over several batches
    artifacts = {
        name: {seed: read_artifact(folder / "sources" / name / f"seed{seed}") for seed in plan.seeds}
        for name in plan.sources
    }
    rows = rows_of(artifacts, next(iter(targets.values())).base)
    cells, judged, failures = _judge_missing(rows, targets, plan, folder, accelerator)
    table = matrix_table(cells, plan.head)
    summary = {
        "sources": len(plan.sources),
        "targets": len(targets),
        "cells": len(cells),
        "skipped_searches": skipped,
        "skipped_cells": len(cells) - judged,
        "matrix": matrix_means(cells),
        "table": str(folder / "matrix.md"),
    }
    if cells:
        write_atomically(folder / "matrix.csv", csv_table(cells).encode())
        write_atomically(folder / "matrix.md", table.encode())
        if find_spec("matplotlib"):
            write_atomically(folder / "matrix.png", transfer_figure(cells))
    if failures:
        raise TrainingError(
            f"{len(failures)} of {len(failures) + len(cells)} cells failed, first {failures[0]}; {folder} holds the "
            "others, and the same command tries again"
        )
    return TransferResult(cells, table, summary)


def _judge_missing(
    rows: list[Row], targets: dict[str, Target], plan: TransferPlan, folder: Path, accelerator: Accelerator
) -> tuple[list[Cell], int, list[str]]:
    """Every cell in the order of the matrix, how many of them are new, and what became of those that failed."""
    journal = Journal(folder / "cells.json")
    places = [(row, target, seed) for row in rows for target in targets.values() for seed in plan.seeds]
    made_from = {
        _key(row, target, seed): _made_from(row.masks[seed], target, plan, seed) for row, target, seed in places
    }
    for key, ours in made_from.items():
        theirs = journal.entry(key).get("made_from", ours)
        odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if odd:
            raise ConfigError(
                f"{folder} holds a cell {key} with {odd[0]} {theirs.get(odd[0])!r}, not {ours.get(odd[0])!r}: name "
                "another --output"
            )
    cells: list[Cell] = []
    failures: list[str] = []
    judged = 0
    for number, (row, target, seed) in enumerate(places, 1):
        key = _key(row, target, seed)
        if not journal.entry(key):
            say(f"transfer: cell {number} of {len(places)}: {row.name} on {target.name}, seed {seed}", accelerator)
            try:
                cell = _judge(row, target, plan, seed, accelerator)
            except JackpotError as error:
                failures.append(f"{row.name} on {target.name}, seed {seed}: {error}")
                say(f"transfer: failed: {error}", accelerator)
                continue
            judged += 1
            journal.note(key, {"made_from": made_from[key], "cell": cell})
        cells.append(journal.entry(key)["cell"])
    return cells, judged, failures


def _judge(row: Row, target: Target, plan: TransferPlan, seed: int, accelerator: Accelerator) -> Cell:
    started = time.monotonic()
    masks = row.masks[seed]
    accuracy = judge_mask(target, masks, plan.head, seed, accelerator)
    return {
        "row": row.name,
        "kind": row.kind,
        "target": target.name,
        "own": row.kind == "source" and plan.is_own(row.name, target.name),
        "seed": seed,
        "top1": accuracy.top1,
        "test_images": accuracy.n,
        "sparsity": masks.sparsity,
        "mask_hash": masks.hash(),
        "seconds": round(time.monotonic() - started, 2),
    }


def _key(row: Row, target: Target, seed: int) -> str:
    return f"{row.name} on {target.name}, seed {seed}"


def _made_from(masks: MaskSet, target: Target, plan: TransferPlan, seed: int) -> dict[str, Any]:
    """What fixes a cell, as JSON has it."""
    search = plan.targets[target.name][seed]
    return {
        "mask": masks.hash(),
        "base": target.base.ref.digest,
        "images": [len(target.data.train), len(target.data.test)],
        "head_steps": plan.head.steps,
        "head_lr": plan.head.lr,
        **search.model_dump(mode="json", include=set(DataFlags.model_fields) | {"img_size"}),
    }
