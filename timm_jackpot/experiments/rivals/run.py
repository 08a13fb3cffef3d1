"""Tune and judge every rival on every task, and write the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments import Cell, csv_table, folder_lock, run_cells, write_outputs
from timm_jackpot.experiments.journal import Journal
from timm_jackpot.experiments.rivals.measure import judge, validation_accuracy
from timm_jackpot.experiments.rivals.plan import Rival, RivalsConfig, plan_rivals
from timm_jackpot.experiments.rivals.table import rivals_table
from timm_jackpot.methods import Task
from timm_jackpot.plots import adapter_figure
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import described, from_main, make_accelerator
from timm_jackpot.search import RunConfig
from timm_jackpot.search.save import published_settings
from timm_jackpot.search.task import open_task

_JOURNAL = "results.json"
_FILES = {"base_checkpoint", "data_dir"}


@dataclass(frozen=True)
class RivalsResult:
    rows: list[dict[str, Any]]  # one per task, rival and seed
    table: str  # markdown
    summary: dict[str, Any]  # what the verb prints as its last line


def compare_rivals(config: RivalsConfig) -> RivalsResult:
    """Tune every rival of every task on held-out images, judge it with each seed, and write table.md and table.csv.

    Tables and picture cover all tasks whose results the output folder holds, also those of earlier runs.

    Raises:
        ConfigError: for invalid settings, or a folder that holds other runs; nothing is run then.
        JackpotError: whatever a method raises; earlier results are kept.
    """
    plan, folder = plan_rivals(config), check_output(config.output)
    first = next(iter(plan.tasks.values()))[0]
    accelerator = make_accelerator(seed=0, timeout=first.run(first.candidates[0], plan.seeds[0]).timeout)
    for name, rivals in plan.tasks.items():
        with folder_lock(folder / name, accelerator):
            _run_task(name, rivals, plan.seeds, folder / name / _JOURNAL, accelerator)
    rows = from_main(accelerator, lambda: _all_rows(folder, accelerator))
    table = rivals_table(rows)
    texts = {"table.md": table, "table.csv": csv_table(rows)}
    pictures = {"adapters.png": lambda: adapter_figure(rows)}
    from_main(accelerator, lambda: write_outputs(folder, texts, pictures))
    return RivalsResult(rows, table, {"tasks": len(plan.tasks), "runs": len(rows), "table": str(folder / "table.md")})


def _run_task(
    name: str, rivals: tuple[Rival, ...], seeds: tuple[int, ...], journal: Path, accelerator: Accelerator
) -> None:
    @cache
    def task() -> Task:
        """Loaded once a cell needs it: all rivals share base, images and the initial head."""
        rival = rivals[0]
        opened, _ = open_task(rival.run(rival.candidates[0], seeds[0]), None, accelerator)
        if opened.data.val is None:
            raise ConfigError(f"the task {name} holds out no images to tune on: set val_fraction or val_split")
        return opened

    def cell(key: str, run: RunConfig, measure: Callable[[Task, RunConfig], dict[str, Any]], **more: Any) -> Cell:
        made_from = {**published_settings(run), **described(accelerator), **more}
        made_from |= run.model_dump(mode="json", include=_FILES)
        return Cell(key, key, made_from, lambda: measure(task(), run))

    for rival in rivals:  # one after the other, so that what is there so far is a table
        tuning = [
            cell(_tuning_key(rival, candidate), rival.tuning_run(candidate, seeds[0]), validation_accuracy)
            for candidate in rival.candidates
            if len(rival.candidates) > 1
        ]
        tuned = run_cells(tuning, journal, accelerator, what=f"rivals: {name}, tuning").results
        chosen = _choose(rival, tuned)
        judged = [
            cell(f"{rival.name}, seed {seed}", rival.run(chosen, seed), _judging(rival, chosen, seed)) for seed in seeds
        ]
        run_cells(judged, journal, accelerator, what=f"rivals: {name}, run")


def _tuning_key(rival: Rival, candidate: Mapping[str, Any]) -> str:
    return f"tune {rival.name}: {json.dumps(candidate, sort_keys=True)}"


def _choose(rival: Rival, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """The candidate with the best validation accuracy; the first of those that are equal."""
    if len(rival.candidates) == 1:
        return rival.candidates[0]
    return max(rival.candidates, key=lambda candidate: tuned[_tuning_key(rival, candidate)]["top1"])


def _judging(rival: Rival, chosen: dict[str, Any], seed: int) -> Callable[[Task, RunConfig], dict[str, Any]]:
    def measure(task: Task, run: RunConfig) -> dict[str, Any]:
        unwatched = replace(task, data=replace(task.data, val=None))  # nothing is validated while it trains
        return {"rival": rival.name, "seed": seed, "chosen": chosen, **judge(unwatched, run)}

    return measure


def _all_rows(folder: Path, accelerator: Accelerator) -> list[dict[str, Any]]:
    rows = []
    for journal in sorted(folder.glob(f"*/{_JOURNAL}")):
        entries = Journal(journal, accelerator).entries.values()
        rows += [{"task": journal.parent.name, **one.result} for one in entries if one.result and "rival" in one.result]
    return rows
