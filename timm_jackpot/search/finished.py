"""A run that is resumed after its end: nothing is left to do but what a kill kept it from."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from timm_jackpot.artifact import artifact_report, is_artifact, read_artifact, recover_folder
from timm_jackpot.hub import render_card
from timm_jackpot.recipes import read_yaml
from timm_jackpot.runtime.lock import locked
from timm_jackpot.runtime.outputs import check_output, write_atomically
from timm_jackpot.runtime.processes import launched_as_main
from timm_jackpot.search.config import RunConfig
from timm_jackpot.search.save import CARD, PICTURE, published_settings
from timm_jackpot.training import CHECKPOINTS


def finished_summary(config: RunConfig) -> dict[str, Any] | None:
    """The summary of a run with these settings that `--resume auto` finds finished; None where it is not.

    A card that is missing is written.

    Raises:
        JackpotError: if another run holds the folder, or its artifact is damaged.
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
            print(f"note: {folder} holds this run already, finished", file=sys.stderr)
        artifact = read_artifact(folder)
        report = artifact_report(artifact)
        return {
            **(artifact.config.info.get("results") or {}),
            "artifact": str(folder),
            "artifact_bytes": sum(report["bytes"].values()),
            "mask_bytes": report["bytes"]["masks.safetensors"],
        }


def write_missing_card(folder: Path) -> None:
    """Write the card of an artifact that was killed between its last rename and its card."""
    if not (folder / CARD).exists():
        pictures = (PICTURE,) if (folder / PICTURE).exists() else ()
        write_atomically(folder / CARD, render_card(read_artifact(folder), pictures=pictures).encode())


def _same_settings(config: RunConfig, folder: Path) -> bool:
    recipe = folder / "recipe.yaml"
    return recipe.exists() and read_yaml(recipe.read_text(encoding="utf-8"), str(recipe)) == published_settings(config)
