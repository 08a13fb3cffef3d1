"""A list of searches into folders, of which those that are there already are not done again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timm_jackpot.artifact import is_artifact
from timm_jackpot.errors import ConfigError
from timm_jackpot.processes import launched_as_main
from timm_jackpot.recipes import read_recipe
from timm_jackpot.search import RunConfig, search_jackpot
from timm_jackpot.search.finished import write_missing_card
from timm_jackpot.search.run import published_settings
from timm_jackpot.sweeps.journal import Journal


class PlannedSearch(NamedTuple):
    name: str  # for people
    path: Path  # where its artifact goes
    search: RunConfig  # without an output folder


def run_missing(searches: Sequence[PlannedSearch], journal: Journal, title: str) -> int:
    """Do the searches whose artifacts are not there yet.

    Args:
        journal: which files of this machine each search was made from: an artifact does not say.
        title: what the progress lines call the whole.

    Returns:
        How many were there already.

    Raises:
        ConfigError: if a folder holds a run with other settings; nothing is run then.
        JackpotError: whatever a search raises; the runs before it are kept.
    """
    done = {planned.path for planned in searches if _is_done(planned, journal)}
    for number, planned in enumerate(searches, 1):
        if planned.path in done:
            if launched_as_main():
                write_missing_card(planned.path)
        else:
            if launched_as_main():
                print(f"{title}: run {number} of {len(searches)}: {planned.name}", file=sys.stderr, flush=True)
                journal.note(str(planned.path), _made_from(planned.search))
            search_jackpot(planned.search.model_copy(update={"output": str(planned.path), "resume": "auto"}))
    return len(done)


def _made_from(search: RunConfig) -> dict[str, Any]:
    return search.model_dump(mode="json", include={"model", "base_checkpoint", "data_dir"})


def _is_done(planned: PlannedSearch, journal: Journal) -> bool:
    """Whether a run is there; refused if it was made with other settings."""
    path, files = planned.path, journal.entry(str(planned.path))
    if not is_artifact(path):
        return False
    theirs = read_recipe(str(path / "recipe.yaml")) | files
    ours = published_settings(planned.search) | (_made_from(planned.search) if files else {})
    odd = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if odd:
        raise ConfigError(
            f"{path} holds a run with {odd[0]} {theirs.get(odd[0])!r}, not {ours.get(odd[0])!r}: name another --output"
        )
    return True
