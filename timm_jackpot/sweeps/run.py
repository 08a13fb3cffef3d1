"""Run what is not done yet, and put all of it into one table."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from timm_jackpot.artifact import read_artifact
from timm_jackpot.outputs import check_output, write_atomically
from timm_jackpot.plots import convergence_figure, sweep_figure
from timm_jackpot.processes import launched_as_main
from timm_jackpot.sweeps.journal import Journal
from timm_jackpot.sweeps.plan import Cell, SweepConfig, plan_cells
from timm_jackpot.sweeps.searches import PlannedSearch, run_missing
from timm_jackpot.sweeps.table import csv_table, markdown_table
from timm_jackpot.training import Record, read_record


def run_sweep(config: SweepConfig) -> dict[str, Any]:
    """Search every cell of a sweep with every seed, and write table.csv, table.md and picture.png.

    A run whose artifact is there, made with the same settings, is read instead of done again: a sweep that was
    stopped goes on where it stopped.

    Returns:
        The summary that the verb prints: numbers of cells and runs, and the table's rows.

    Raises:
        ConfigError: for settings that no search takes, or a folder that holds other runs; nothing is run then.
        JackpotError: whatever a search raises; the runs before it are kept.
    """
    folder = check_output(config.output)
    cells = plan_cells(config)
    runs = [(cell, seed, folder / cell.name / f"seed{seed}") for cell in cells for seed in cell.searches]
    searches = [PlannedSearch(f"{cell.name}, seed {seed}", path, cell.searches[seed]) for cell, seed, path in runs]
    skipped = run_missing(searches, Journal(folder / "runs.json"), "sweep")
    if launched_as_main():
        _tabulate(folder, cells, runs)
    return {"cells": len(cells), "runs": len(runs), "skipped": skipped, "table": str(folder / "table.md")}


def _tabulate(folder: Path, cells: list[Cell], runs: list[tuple[Cell, int, Path]]) -> None:
    rows = [
        {"cell": cell.name, **cell.axes, "seed": seed, **read_artifact(path).config.info["results"]}
        for cell, seed, path in runs
    ]
    records: dict[str, list[Record]] = {}
    for cell, _, path in runs:
        records.setdefault(cell.name, []).append(read_record(path / "record.jsonl"))
    write_atomically(folder / "table.csv", csv_table(rows).encode())
    write_atomically(folder / "table.md", markdown_table(cells, rows).encode())
    if find_spec("matplotlib"):
        axes = list(dict.fromkeys(axis for cell in cells for axis in cell.axes))
        write_atomically(folder / "picture.png", sweep_figure(rows, axes))
        if convergence := convergence_figure(records):
            write_atomically(folder / "convergence.png", convergence)
