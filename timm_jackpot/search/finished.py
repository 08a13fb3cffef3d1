"""Resume a run that had finished already: write its card if it is missing, and report its result."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from timm_jackpot.artifact import is_artifact, read_artifact, recover_folder
from timm_jackpot.hub import render_card
from timm_jackpot.plots import SEARCH_PICTURES
from timm_jackpot.recipes import read_yaml
from timm_jackpot.runtime.lock import locked
from timm_jackpot.runtime.log import log
from timm_jackpot.runtime.outputs import check_output, write_atomically
from timm_jackpot.runtime.processes import launched_as_main
from timm_jackpot.search.config import RunConfig
from timm_jackpot.search.save import CARD, published_settings, size_summary
from timm_jackpot.training import CHECKPOINTS


def finished_summary(config: RunConfig) -> dict[str, Any] | None:
    """The summary of a finished run with these settings in the output folder of `--resume auto`; None if there is none.

    Writes the card if it is missing.

    Raises:
        JackpotError: if another run is using the folder, or its artifact is damaged.
    """
    if config.resume != "auto" or config.output is None or config.overwrite:
        return None
    folder, is_main = check_output(config.output), launched_as_main()
    with locked(folder) if is_main else nullcontext():
        if is_main:
            recover_folder(folder)
        if not is_artifact(folder) or (folder / CHECKPOINTS).exists() or not _same_settings(config, folder):
            return None
        if is_main:
            write_missing_card(folder)
            log.info(f"note: this run has already finished, its artifact is in {folder}")
        artifact = read_artifact(folder)
        return {**(artifact.config.info.get("results") or {}), **size_summary(artifact)}


def write_missing_card(folder: Path) -> None:
    """Write the card of an artifact if the run was killed just before writing it."""
    if not (folder / CARD).exists():
        pictures = tuple(name for name in sorted(SEARCH_PICTURES) if (folder / name).exists())
        write_atomically(folder / CARD, render_card(read_artifact(folder), pictures=pictures).encode())


def _same_settings(config: RunConfig, folder: Path) -> bool:
    recipe = folder / "recipe.yaml"
    return recipe.exists() and read_yaml(recipe.read_text(encoding="utf-8"), str(recipe)) == published_settings(config)
