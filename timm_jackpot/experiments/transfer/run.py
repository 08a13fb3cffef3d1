"""Search the sources, evaluate their masks on the targets, and write the matrix."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timm_jackpot.artifact import read_artifact
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import TrainingError
from timm_jackpot.experiments import Cell, Part, csv_table, folder_lock, run_cells, search_cell, write_outputs
from timm_jackpot.experiments.transfer.plan import TransferConfig, TransferPlan, plan_transfer
from timm_jackpot.experiments.transfer.rows import TransferRow, transfer_rows
from timm_jackpot.experiments.transfer.table import matrix_means, matrix_table
from timm_jackpot.experiments.transfer.targets import Target, evaluate_mask, open_target
from timm_jackpot.plots import transfer_figure
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import described, from_main, make_accelerator


@dataclass(frozen=True)
class TransferResult:
    cells: list[dict[str, Any]]  # one per mask, target and seed
    table: str  # markdown
    summary: dict[str, Any]  # what the verb prints as its last line


def transfer_masks(config: TransferConfig) -> TransferResult:
    """Search every source, evaluate every mask on every target, and write matrix.csv, matrix.md and matrix.png.

    Searches and cells that the output folder already holds, with the same settings, are not repeated. If a cell fails,
    the others still run and its place in the matrix stays empty.

    Raises:
        ConfigError: for invalid settings, or a folder that holds other runs; nothing is run then.
        DataError, BaseError: if a target cannot be opened; nothing is run then.
        JackpotError: whatever a search raises; earlier runs are kept.
        TrainingError: if cells failed, after the matrix is written; the next run tries them again. Also if other parts
            have not ended their searches, whose masks this part has to evaluate.
    """
    plan, folder = plan_transfer(config), check_output(config.output)
    # The first accelerator of a process sets the timeout for all.
    timeout = next(iter(plan.targets.values()))[plan.seeds[0]].timeout
    accelerator = make_accelerator(seed=0, timeout=timeout)
    part = Part.of(config.part)
    with folder_lock(folder, accelerator, part):
        return _transfer(plan, folder, accelerator, part)


def _transfer(plan: TransferPlan, folder: Path, accelerator: Accelerator, part: Part) -> TransferResult:
    first = plan.seeds[0]
    with accelerator.main_process_first():
        targets = {name: open_target(name, searches[first], accelerator) for name, searches in plan.targets.items()}
    sources = {(name, seed): f"sources/{name}/seed{seed}" for name in plan.sources for seed in plan.seeds}
    searches = [
        search_cell(folder, key, f"source {name}, seed {seed}", plan.sources[name][seed])
        for (name, seed), key in sources.items()
    ]
    searched = run_cells(searches, folder / "runs.json", accelerator, what="transfer: run", part=part)
    if searched.left:
        raise TrainingError(
            f"{searched.left} searches of other parts are not finished: run this part again when they are, to evaluate "
            "its share of their masks"
        )
    accelerator = make_accelerator(seed=0)  # a search's accelerator may accumulate gradients
    artifacts = {
        name: {seed: read_artifact(folder / sources[name, seed]) for seed in plan.seeds} for name in plan.sources
    }
    rows = transfer_rows(artifacts, next(iter(targets.values())).base)
    cells = [
        _cell(row, target, plan, seed, accelerator)
        for row in rows
        for target in targets.values()
        for seed in plan.seeds
    ]
    evaluated = run_cells(cells, folder / "cells.json", accelerator, what="transfer: cell", go_on=True, part=part)
    found = list(evaluated.results.values())
    table = matrix_table(found, plan.head)
    summary = {
        "sources": len(plan.sources),
        "targets": len(targets),
        "cells": len(found),
        "skipped_searches": searched.skipped,
        "skipped_cells": evaluated.skipped,
        "matrix": matrix_means(found),
    }
    if part.count > 1:  # two that end at once would write the same files
        summary["left_to_other_parts"] = evaluated.left
    elif found:
        summary["table"] = str(folder / "matrix.md")
        texts = {"matrix.csv": csv_table(found), "matrix.md": table}
        pictures = {"matrix.png": lambda: transfer_figure(found)}
        from_main(accelerator, lambda: write_outputs(folder, texts, pictures))
    if evaluated.failures:
        raise TrainingError(
            f"{len(evaluated.failures)} of {len(cells)} cells failed; the first was {evaluated.failures[0]}; "
            f"{folder} holds the results of the others; run the same command to try again"
        )
    return TransferResult(found, table, summary)


def _cell(row: TransferRow, target: Target, plan: TransferPlan, seed: int, accelerator: Accelerator) -> Cell:
    """Evaluate one mask on one target."""
    masks, search = row.masks[seed], plan.targets[target.name][seed]

    def run() -> dict[str, Any]:
        started = time.monotonic()
        accuracy = evaluate_mask(target, masks, plan.head, seed, accelerator)
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

    made_from = {
        "mask": masks.hash(),
        "base": target.base.ref.digest,
        "images": [len(target.data.train), len(target.data.test)],
        "head_steps": plan.head.head_steps,
        "head_lr": plan.head.head_lr,
        **described(accelerator),
        **search.model_dump(mode="json", include=set(DataFlags.model_fields) - {"workers"} | {"img_size"}),
    }
    key = f"{row.name} on {target.name}, seed {seed}"
    return Cell(key, key, made_from, run)
