"""Run the searches of a sweep that are not done yet, and write its tables and figures."""

from __future__ import annotations

from typing import Any

from timm_jackpot.experiments import Part, csv_table, folder_lock, run_cells, search_cell, write_outputs
from timm_jackpot.experiments.sweeps.plan import SweepConfig, plan_grid
from timm_jackpot.experiments.sweeps.published import published_figures, published_rows, published_table
from timm_jackpot.experiments.sweeps.table import sweep_table
from timm_jackpot.plots import convergence_figure, sweep_figure
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import from_main, make_accelerator
from timm_jackpot.training import Record, read_record


def run_sweep(config: SweepConfig) -> dict[str, Any]:
    """Search every cell of a sweep with every seed, and write table.csv, table.md and picture.png.

    A run whose artifact exists, with the same settings, is not repeated: an interrupted sweep resumes where it
    stopped.

    Returns:
        The summary that the verb prints: number of cells and runs, and the path of the table; of a part, how many runs
        are left to others.

    Raises:
        ConfigError: for invalid settings, or a folder that holds other runs; nothing is run then.
        JackpotError: whatever a search raises; earlier runs are kept.
    """
    folder = check_output(config.output)
    cells, published = plan_grid(config), published_figures(config.sweep)
    runs = {f"{cell.name}/seed{seed}": (cell, seed) for cell in cells for seed in cell.searches}
    searches = [
        search_cell(folder, key, f"{cell.name}, seed {seed}", cell.searches[seed]) for key, (cell, seed) in runs.items()
    ]
    # The first accelerator of a process sets the timeout for all.
    accelerator = make_accelerator(seed=0, timeout=next(iter(cells[0].searches.values())).timeout)
    part = Part.of(config.part)
    with folder_lock(folder, accelerator, part):
        ran = run_cells(searches, folder / "runs.json", accelerator, what="sweep: run", part=part)
    summary = {"cells": len(cells), "runs": len(ran.results), "skipped": ran.skipped}
    if part.count > 1:  # two that end at once would write the same files
        return {**summary, "left_to_other_parts": ran.left}
    axes = list(dict.fromkeys(axis for cell in cells for axis in cell.axes))
    rows = [{"cell": cell.name, **cell.axes, "seed": seed, **ran.results[key]} for key, (cell, seed) in runs.items()]

    def convergence() -> bytes | None:
        records: dict[str, list[Record]] = {}
        for key, (cell, _) in runs.items():
            records.setdefault(cell.name, []).append(read_record(folder / key / "record.jsonl"))
        return convergence_figure(records)

    table = sweep_table(cells, rows) + published_table(published, cells, rows)
    texts = {"table.csv": csv_table([*rows, *published_rows(published)]), "table.md": table}
    pictures = {"picture.png": lambda: sweep_figure(rows, axes), "convergence.png": convergence}
    from_main(accelerator, lambda: write_outputs(folder, texts, pictures))
    return {**summary, "table": str(folder / "table.md")}
