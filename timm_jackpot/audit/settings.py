"""The settings of the search that found a jackpot, so that it can be searched for again."""

from __future__ import annotations

from typing import Any

from timm_jackpot.artifact import Artifact
from timm_jackpot.artifact.tensors_file import read_bytes
from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.base import BaseFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.recipes import read_yaml
from timm_jackpot.search import RunConfig, config_from

_RECIPE, _MAX_BYTES = "recipe.yaml", 65536
# A stranger's artifact may say how images were augmented, but not which data to open on this machine. (Mean and std are
# in its data config.)
_HARMLESS_DATA = {"val_fraction", "batch_size", "hflip", "crop_padding", "stratify"}
_LEFT_OUT = {
    *BaseFlags.model_fields,
    *(set(DataFlags.model_fields) - _HARMLESS_DATA),
    *("output", "overwrite", "resume", "checkpoint_steps", "report_to", "torchcompile"),
}


def search_settings(artifact: Artifact, config: AuditConfig) -> RunConfig:
    """The artifact's own settings (recipe.yaml where it lies beside it, else `info.config`), with the audit's data.

    Raises:
        ArtifactError: if it does not say how it was searched for, or not in words that a search understands.
    """
    given = {key: value for key, value in _recorded(artifact).items() if key not in _LEFT_OUT}
    flags = {key: getattr(config, key) for key in config.model_fields_set & set(DataFlags.model_fields)}
    allocation = artifact.config.allocation.label
    exact = {"allocation": allocation, "sparsity": artifact.config.sparsity.requested}
    if ":" in allocation:
        exact.pop("sparsity")  # implied by the pattern
        given.pop("sparsity", None)
    steps = _results(artifact).get("steps")
    if isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0:
        exact |= {"steps": steps, "epochs": None}
    try:
        found = config_from({**given, **exact, **flags})
    except ConfigError as error:
        raise ArtifactError(f"the artifact's settings are no search's: {error}") from error
    if found.steps is None and found.epochs is None:
        raise ArtifactError("the artifact does not say how many steps its search took: an audit has to search again")
    return found


def searched_in_processes(artifact: Artifact) -> int | None:
    """How many processes the search ran on, if the artifact says so."""
    count = _results(artifact).get("processes")
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _recorded(artifact: Artifact) -> dict[str, Any]:
    recipe = artifact.folder / _RECIPE
    if recipe.is_file() and not recipe.is_symlink():
        try:
            found = read_yaml(read_bytes(recipe, _MAX_BYTES).decode("utf-8"), _RECIPE)
        except (ConfigError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{_RECIPE} of the artifact is not readable as YAML") from error
    else:
        found = artifact.config.info.get("config")
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ArtifactError(
            "the artifact does not say how it was searched for (recipe.yaml, info.config): an audit has to search again"
        )
    return found


def _results(artifact: Artifact) -> dict[str, Any]:
    results = artifact.config.info.get("results")
    return results if isinstance(results, dict) else {}
