"""Searches as cells of an experiment: the result is the artifact in the cell's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm_jackpot.artifact import is_artifact, read_artifact
from timm_jackpot.experiments.cells import Cell
from timm_jackpot.experiments.journal import JournalEntry
from timm_jackpot.recipes import read_recipe
from timm_jackpot.runtime.processes import launched_as_main
from timm_jackpot.search import RunConfig, search_jackpot
from timm_jackpot.search.finished import write_missing_card
from timm_jackpot.search.save import published_settings

_FILES = {"model", "base_checkpoint", "data_dir"}  # local paths, recorded in the journal but not in artifacts


def search_cell(folder: Path, key: str, title: str, search: RunConfig) -> Cell:
    """A search that writes to `folder / key`; its result is the results recorded in the artifact there.

    Args:
        search: must not set an output folder.
    """
    path = folder / key
    files = search.model_dump(mode="json", include=_FILES)

    def run() -> Any:
        search_jackpot(search.model_copy(update={"output": str(path), "resume": "auto"}))
        return _results(path) if launched_as_main() else None

    def find(entry: JournalEntry | None) -> JournalEntry | None:
        if not is_artifact(path):
            return None
        write_missing_card(path)
        known = files if entry is None else {key: entry.made_from.get(key) for key in files}
        return JournalEntry(read_recipe(str(path / "recipe.yaml")) | known, _results(path))

    return Cell(key, title, published_settings(search) | files, run, find)


def _results(path: Path) -> dict[str, Any]:
    return read_artifact(path).config.info["results"]
