"""Recover the settings, task and budget of the search that found an artifact, to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from accelerate import Accelerator

from timm_jackpot.artifact import Artifact
from timm_jackpot.artifact.tensors_file import read_bytes
from timm_jackpot.base import Base, BaseFlags, Maskable
from timm_jackpot.data import DataFlags, default_data_notice, open_data, steps_per_epoch
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.methods import Budget, Task
from timm_jackpot.recipes import read_yaml
from timm_jackpot.runtime.processes import say, shard_of
from timm_jackpot.search.config import RunConfig, config_from
from timm_jackpot.search.task import make_task
from timm_jackpot.training import total_steps

_RECIPE, _MAX_BYTES = "recipe.yaml", 65536
# An artifact that we do not trust may say how images are augmented, but not which data to open on this machine. (Mean
# and std are in its data config.)
_HARMLESS_DATA = {"val_fraction", "batch_size", "hflip", "crop_padding", "stratify"}
_LEFT_OUT = {
    *BaseFlags.model_fields,
    *(set(DataFlags.model_fields) - _HARMLESS_DATA),
    *("output", "overwrite", "resume", "checkpoint_steps", "report_to", "torchcompile"),
}


class ReopenedSearch(NamedTuple):
    """What the search of an artifact worked on; the task's maskable weights are those that the artifact masks."""

    task: Task
    budget: Budget
    config: RunConfig


def reopen_search(artifact: Artifact, base: Base, flags: DataFlags, accelerator: Accelerator) -> ReopenedSearch:
    """The task of the search that found an artifact, with the artifact's masks as its jackpot.

    Args:
        flags: the data to use; settings that are not given are taken from the artifact's search.

    Raises:
        ArtifactError: if the artifact does not record its search settings, or its masks do not fit this base.
        DataError: if the data cannot be read.
    """
    config, masks = search_settings(artifact, flags), artifact.masks_on(base)
    described = getattr(base.model, "pretrained_cfg", None) or {}
    base.model.pretrained_cfg = {**described, **artifact.config.data.model_dump()}  # pyright: ignore
    with accelerator.main_process_first():
        say(default_data_notice(config, base.model), accelerator)
        data = open_data(config, base.model, device=accelerator.device)
    accelerator.gradient_accumulation_steps = config.grad_accum_steps
    parameters = dict(base.model.named_parameters(remove_duplicate=False))
    maskable = Maskable({name: parameters[name] for name in masks}, [], {})
    task = make_task(config, base, maskable, data, accelerator, jackpot=masks)
    per_epoch = steps_per_epoch(len(data.train), config.batch_size, shard_of(accelerator))
    steps = total_steps(config, per_epoch, default_epochs=1)
    return ReopenedSearch(task, Budget.of(config, steps=steps, seed=config.seed), config)


def search_settings(artifact: Artifact, flags: DataFlags) -> RunConfig:
    """The artifact's own settings (from recipe.yaml if present, else from `info.config`), with the data of `flags`.

    Raises:
        ArtifactError: if it does not record its search settings, or they are not valid.
    """
    given = {key: value for key, value in _recorded(artifact).items() if key not in _LEFT_OUT}
    allocation = artifact.config.allocation.label
    exact = {"allocation": allocation, "sparsity": artifact.config.sparsity.requested}
    if ":" in allocation:
        exact.pop("sparsity")  # implied by the pattern
        given.pop("sparsity", None)
    steps = _results(artifact).get("steps")
    if isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0:
        exact |= {"steps": steps, "epochs": None}
    try:
        found = config_from({**given, **exact, **_given(flags)})
    except ConfigError as error:
        raise ArtifactError(f"the artifact's search settings are not valid: {error}") from error
    if found.steps is None and found.epochs is None:
        raise ArtifactError("the artifact does not record the number of steps of its search: it cannot be repeated")
    return found


def data_flags(settings: Mapping[str, Any], flags: DataFlags) -> DataFlags:
    """The data of `flags`; augmentation and held-out images, where not given, as in the settings of a run."""
    return DataFlags(**{key: settings[key] for key in _HARMLESS_DATA & settings.keys()} | _given(flags))


def recorded_processes(artifact: Artifact) -> int | None:
    """The number of processes that the search ran on, if recorded."""
    count = _results(artifact).get("processes")
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _given(flags: DataFlags) -> dict[str, Any]:
    return {key: getattr(flags, key) for key in flags.model_fields_set & set(DataFlags.model_fields)}


def _recorded(artifact: Artifact) -> dict[str, Any]:
    recipe = artifact.folder / _RECIPE
    if recipe.is_file() and not recipe.is_symlink():
        try:
            found = read_yaml(read_bytes(recipe, _MAX_BYTES).decode("utf-8"), _RECIPE)
        except (ConfigError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{_RECIPE} of the artifact is not valid YAML") from error
    else:
        found = artifact.config.info.get("config")
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ArtifactError(
            "the artifact does not record its search settings (recipe.yaml, info.config): the search cannot be repeated"
        )
    return found


def _results(artifact: Artifact) -> dict[str, Any]:
    results = artifact.config.info.get("results")
    return results if isinstance(results, dict) else {}
