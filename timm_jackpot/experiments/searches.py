"""Searches and tickets as cells of an experiment: the result is in the cell's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm_jackpot.artifact import is_artifact, is_ticket, read_artifact, read_ticket
from timm_jackpot.experiments.cells import Cell
from timm_jackpot.experiments.journal import JournalEntry
from timm_jackpot.methods import method
from timm_jackpot.recipes import read_recipe
from timm_jackpot.runtime.processes import launched_as_main
from timm_jackpot.search import RunConfig, search_jackpot, train_ticket
from timm_jackpot.search.finished import write_missing_card
from timm_jackpot.search.save import published_settings
from timm_jackpot.search.ticket import results_of
from timm_jackpot.training import CHECKPOINTS

_FILES = {"model", "base_checkpoint", "data_dir"}  # local paths, recorded in the journal but not in artifacts


def search_cell(folder: Path, key: str, title: str, search: RunConfig) -> Cell:
    """A run that writes an artifact or a ticket to `folder / key`; its result is the results recorded there.

    Args:
        search: must not set an output folder.
    """
    path = folder / key
    files = search.model_dump(mode="json", include=_FILES)
    makes = search_jackpot if method(search.method).finds_jackpots else train_ticket

    def run() -> Any:
        resume = "auto" if (path / CHECKPOINTS).exists() else None
        makes(search.model_copy(update={"output": str(path), "resume": resume}))
        return _results(path) if launched_as_main() else None

    def find(entry: JournalEntry | None) -> JournalEntry | None:
        if is_artifact(path):
            write_missing_card(path)
        elif not is_ticket(path):
            return None
        known = files if entry is None else {key: entry.made_from.get(key) for key in files}
        return JournalEntry(read_recipe(str(path / "recipe.yaml")) | known, _results(path))

    return Cell(key, title, published_settings(search) | files, run, find)


def _results(path: Path) -> dict[str, Any]:
    return results_of(read_ticket(path)) if is_ticket(path) else read_artifact(path).config.info["results"]
