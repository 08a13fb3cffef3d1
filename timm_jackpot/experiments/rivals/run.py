"""Tune and evaluate every rival on every task, and write the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.experiments import Cell, Part, csv_table, files_of_all_parts, folder_lock, run_cells, write_outputs
from timm_jackpot.experiments.journal import read_journal
from timm_jackpot.experiments.rivals.cost_table import cost_table
from timm_jackpot.experiments.rivals.measure import test_split_figures, validation_accuracy
from timm_jackpot.experiments.rivals.plan import Rival, RivalsConfig, RivalsPlan, plan_rivals
from timm_jackpot.experiments.rivals.table import rivals_table
from timm_jackpot.methods import Task
from timm_jackpot.plots import adapter_figure, cost_figure, sparsity_figure
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import described, from_main, make_accelerator
from timm_jackpot.search import RunConfig
from timm_jackpot.search.save import published_settings
from timm_jackpot.search.task import open_task

_JOURNAL = "results.json"
_FILES = {"base_checkpoint", "data_dir"}
_TABLES = {"adapters": rivals_table, "cost": cost_table}
_PICTURES = {
    "adapters": {"adapters.png": adapter_figure},
    "cost": {"cost.png": cost_figure, "sparsity.png": sparsity_figure},
}


@dataclass(frozen=True)
class RivalsResult:
    rows: list[dict[str, Any]]  # one per task, rival and seed
    table: str  # markdown
    summary: dict[str, Any]  # what the verb prints as its last line


def compare_rivals(config: RivalsConfig) -> RivalsResult:
    """Tune every rival of every task on held-out images, evaluate it with each seed, and write table.md and table.csv.

    The tables are written after each rival, and cover all tasks of the recipe whose results the output folder holds;
    those of parts are written by a run without --part.

    Raises:
        ConfigError: for invalid settings, or a folder that holds other runs; nothing is run then.
        TrainingError: if runs diverged, after all others have run; the next call tries them again.
        JackpotError: whatever else a method raises; earlier results are kept.
    """
    plan, folder = plan_rivals(config), check_output(config.output)
    first = next(iter(plan.tasks.values()))[0]
    accelerator = make_accelerator(seed=0, timeout=first.run(first.candidates[0], first.seeds[0]).timeout)
    failures: list[str] = []
    part = Part.of(config.part)
    work = part.share([(name, rival) for name, rivals in plan.tasks.items() for rival in rivals])
    with folder_lock(folder, accelerator, part):
        for name, rivals in plan.tasks.items():
            open_once = _opener(name, rivals, accelerator)
            for rival in [rival for task, rival in work if task == name]:
                failures += _run_rival(name, rival, open_once, folder / name / _JOURNAL, accelerator, part)
                if part.count == 1:  # two parts that end at once would write the same files
                    from_main(accelerator, lambda: _write_tables(folder, plan))
    if failures:
        raise TrainingError(
            f"{len(failures)} runs failed; the first was {failures[0]}; {folder} holds the results of the others; run "
            "the same command to try again"
        )
    rows = from_main(accelerator, lambda: _rows_so_far(folder, plan))
    summary: dict[str, Any] = {"tasks": len(plan.tasks), "runs": len(rows)}
    if part.count == 1:
        summary["table"] = str(folder / "table.md")
    return RivalsResult(rows, _TABLES[plan.table](rows), summary)


def _opener(name: str, rivals: tuple[Rival, ...], accelerator: Accelerator) -> Callable[[], Task]:
    """Loads a task once a cell needs it: all its rivals share base, images and the initial head."""

    @cache
    def task() -> Task:
        first = rivals[0]
        opened, _ = open_task(first.run(first.candidates[0], first.seeds[0]), None, accelerator)
        if opened.data.val is None and any(len(rival.candidates) > 1 for rival in rivals):
            raise ConfigError(f"the task {name} holds out no images to tune on: set val_fraction or val_split")
        return opened

    return task


def _run_rival(
    task_name: str,
    rival: Rival,
    task: Callable[[], Task],
    journal: Path,
    accelerator: Accelerator,
    part: Part,
) -> list[str]:
    """Tune and evaluate one rival; returns which runs failed, and why."""

    def cell(key: str, run: RunConfig, measure: Callable[[Task, RunConfig], dict[str, Any]]) -> Cell:
        made_from = {**published_settings(run), **described(accelerator)}
        made_from |= run.model_dump(mode="json", include=_FILES)
        return Cell(key, key, made_from, lambda: measure(task(), run))

    tuning = [
        cell(_tuning_key(rival, candidate), rival.tuning_run(candidate, rival.seeds[0]), validation_accuracy)
        for candidate in rival.candidates
        if len(rival.candidates) > 1
    ]
    tuned = run_cells(
        tuning, journal, accelerator, what=f"rivals: {task_name}, tuning", part=part, divide=False
    ).results
    if tuned and all("failed" in result for result in tuned.values()):
        return [f"{rival.name} on {task_name}, with every setting that it was tuned over"]
    chosen = _choose(rival, tuned)

    def evaluate(seed: int) -> Callable[[Task, RunConfig], dict[str, Any]]:
        def measure(opened: Task, run: RunConfig) -> dict[str, Any]:
            unwatched = replace(opened, data=replace(opened.data, val=None))  # nothing is validated while it trains
            return {"rival": rival.name, "seed": seed, "chosen": chosen, **test_split_figures(unwatched, run)}

        return measure

    cells = [cell(f"{rival.name}, seed {seed}", rival.run(chosen, seed), evaluate(seed)) for seed in rival.seeds]
    return run_cells(
        cells, journal, accelerator, what=f"rivals: {task_name}, run", go_on=True, part=part, divide=False
    ).failures


def _tuning_key(rival: Rival, candidate: Mapping[str, Any]) -> str:
    return f"tune {rival.name}: {json.dumps(candidate, sort_keys=True)}"


def _choose(rival: Rival, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """The candidate with the best validation accuracy; the first of those that are equal."""
    if len(rival.candidates) == 1:
        return rival.candidates[0]
    return max(rival.candidates, key=lambda candidate: tuned[_tuning_key(rival, candidate)]["top1"])


def _rows_so_far(folder: Path, plan: RivalsPlan) -> list[dict[str, Any]]:
    """The results that are there, in the recipe's order."""
    rows = []
    for task, rivals in plan.order.items():
        entries = [one for path in files_of_all_parts(folder / task / _JOURNAL) for one in read_journal(path).values()]
        found = [one.result for one in entries if one.result and one.result.get("rival") in rivals]
        found.sort(key=lambda row: (rivals.index(row["rival"]), row["seed"]))
        rows += [{"task": task, **row} for row in found]
    return rows


def _write_tables(folder: Path, plan: RivalsPlan) -> None:
    rows = _rows_so_far(folder, plan)
    texts = {"table.md": _TABLES[plan.table](rows), "table.csv": csv_table(rows)}
    write_outputs(folder, texts, {name: partial(draw, rows) for name, draw in _PICTURES[plan.table].items()})
