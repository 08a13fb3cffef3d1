"""Run what is not done yet, and put all of it into one table."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from timm_jackpot.artefact import read_artefact
from timm_jackpot.artefact.save import is_artefact
from timm_jackpot.errors import ConfigError
from timm_jackpot.plots import convergence_figure, sweep_figure
from timm_jackpot.processes import launched_as_main
from timm_jackpot.recipes import read_yaml
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.search.run import published_settings
from timm_jackpot.sweeps.plan import Cell, SweepConfig, plan_cells
from timm_jackpot.sweeps.table import csv_table, markdown_table
from timm_jackpot.training import Record, read_record


def run_sweep(config: SweepConfig) -> dict[str, Any]:
    """Search every cell of a sweep with every seed, and write table.csv, table.md and picture.png.

    A run whose artefact is there, made with the same settings, is read instead of done again: a sweep that was
    stopped goes on where it stopped.

    Returns:
        The summary that the verb prints: numbers of cells and runs, and the table's rows.

    Raises:
        ConfigError: for settings that no search takes, or a folder that holds other runs; nothing is run then.
        JackpotError: whatever a search raises; the runs before it are kept.
    """
    folder = Path(config.output)
    cells = plan_cells(config)
    runs = [(cell, seed, folder / cell.name / f"seed{seed}") for cell in cells for seed in cell.searches]
    journal = _Journal(folder / "runs.json")
    done = {path for cell, seed, path in runs if _is_done(path, cell.searches[seed], journal)}
    for number, (cell, seed, path) in enumerate(runs, 1):
        if path not in done:
            if launched_as_main():
                print(f"sweep: run {number} of {len(runs)}: {cell.name}, seed {seed}", file=sys.stderr, flush=True)
                journal.note(path, cell.searches[seed])
            search_jackpot(cell.searches[seed].model_copy(update={"output": str(path), "resume": "auto"}))
    if launched_as_main():
        _tabulate(folder, cells, runs)
    return {"cells": len(cells), "runs": len(runs), "skipped": len(done), "table": str(folder / "table.md")}


def _tabulate(folder: Path, cells: list[Cell], runs: list[tuple[Cell, int, Path]]) -> None:
    rows = [
        {"cell": cell.name, **cell.axes, "seed": seed, **read_artefact(path).config.info["results"]}
        for cell, seed, path in runs
    ]
    records: dict[str, list[Record]] = {}
    for cell, _, path in runs:
        records.setdefault(cell.name, []).append(read_record(path / "record.jsonl"))
    (folder / "table.csv").write_text(csv_table(rows), encoding="utf-8")
    (folder / "table.md").write_text(markdown_table(cells, rows), encoding="utf-8")
    if find_spec("matplotlib"):
        (folder / "picture.png").write_bytes(sweep_figure(rows, list(cells[0].axes)))
        if convergence := convergence_figure(records):
            (folder / "convergence.png").write_bytes(convergence)


class _Journal:
    """Which files of this machine each run was made from: an artefact does not say."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def note(self, run: Path, search: SearchConfig) -> None:
        self._runs[str(run)] = self.made_from(search)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{self._path.name}")
        aside.write_text(json.dumps(self._runs, indent=1), encoding="utf-8")
        aside.replace(self._path)  # another process may be reading it, and a kill may come at any instant

    def files(self, run: Path) -> dict[str, Any]:
        return self._runs.get(str(run), {})

    @staticmethod
    def made_from(search: SearchConfig) -> dict[str, Any]:
        return search.model_dump(mode="json", include={"model", "base_checkpoint", "data_dir"})


def _is_done(path: Path, search: SearchConfig, journal: _Journal) -> bool:
    """Whether a run is there; refused if it was made with other settings."""
    if not is_artefact(path):
        return False
    theirs = read_yaml((path / "recipe.yaml").read_text(encoding="utf-8"))
    theirs |= journal.files(path)
    ours = published_settings(search) | (journal.made_from(search) if journal.files(path) else {})
    odd = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if odd:
        raise ConfigError(
            f"{path} holds a run with {odd[0]} {theirs.get(odd[0])!r}, not {ours.get(odd[0])!r}: name another --output"
        )
    return True
