"""Expand a recipe into tasks, methods, the grid that each method is tuned over, and seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from timm_jackpot.base import BaseFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.parts import PartFlags
from timm_jackpot.experiments.settings import key_value, merged
from timm_jackpot.methods import CoverFlags, method
from timm_jackpot.recipes import read_recipe, read_seeds, read_yaml
from timm_jackpot.schema import Command
from timm_jackpot.search import RunConfig, config_from, config_of
from timm_jackpot.search.config import AUTO
from timm_jackpot.training import RunFlags

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,%=_+-]{0,39}")
TABLES = ("adapters", "cost")
_SET_HERE = {"seed", "output", "overwrite", "resume"}
# All rivals of a task share its base, images and maskable weights.
_OF_THE_TASK = {
    *(BaseFlags.model_fields.keys() | DataFlags.model_fields.keys() | CoverFlags.model_fields.keys()),
    *(RunFlags.model_fields.keys() - {"steps", "epochs"} | _SET_HERE),
}


class RivalsConfig(PartFlags):
    """Run methods side by side on several tasks: each is tuned on held-out training images, then trained with every
    seed and evaluated once on the test split. Finished runs are not repeated."""

    command: ClassVar[Command | None] = Command(
        "rivals",
        (
            "--recipe adapters_small --data-dir clothing=data/clothing --output adapters",
            "--recipe adapters_small --tasks digits --seeds 0 --output quick",
            "--recipe mine.yaml --set steps=100 --output rivals",
        ),
    )

    rivals: str = Field(json_schema_extra={"flags": ["--recipe"]})
    """A bundled recipe by name, or a YAML file: settings for all runs, plus tasks (name: settings), rivals (name: a
    method, its settings, tune: the values to try of some, for all tasks or by task, and its own seeds), seeds,
    tune_steps (the steps of a run that tunes; default: those of the task), and table (adapters: bytes per task; cost:
    what training took). Task settings that a method lacks are ignored for its rivals."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the recipe."""
    base_checkpoint: tuple[str, ...] = ()
    """Files with a base's weights, by task: digits=resnet20.safetensors."""
    data_dir: tuple[str, ...] = ()
    """Image folders, by task: clothing=data/clothing."""
    settings: tuple[str, ...] = Field(default=(), json_schema_extra={"flags": ["--set"]})
    """Settings that override the recipe's everywhere, as key=value: steps=100 channels_last=true."""
    seeds: tuple[int, ...] | None = None
    """Seeds of the runs that are evaluated; the first also tunes. Default: those of the recipe, or 0 1 2."""
    output: str
    """Folder for results, table.md, table.csv and pictures."""


@dataclass(frozen=True)
class Rival:
    """One row of a task's table: a method with fixed settings, and settings to choose from."""

    name: str
    settings: Mapping[str, Any]  # of the runs that are evaluated
    candidates: tuple[dict[str, Any], ...]  # what tuning chooses from; one empty candidate: nothing to choose
    tune_steps: int | None
    seeds: tuple[int, ...]

    def run(self, candidate: Mapping[str, Any], seed: int) -> RunConfig:
        """The settings of a run that is evaluated."""
        return config_from({**self.settings, **candidate, "seed": seed})

    def tuning_run(self, candidate: Mapping[str, Any], seed: int) -> RunConfig:
        """The settings of a run that tunes."""
        steps = {} if self.tune_steps is None else {"steps": self.tune_steps}
        return config_from({**merged(self.settings, steps), **candidate, "seed": seed})


@dataclass(frozen=True)
class RivalsPlan:
    tasks: dict[str, tuple[Rival, ...]]
    order: dict[str, list[str]]  # all tasks of the recipe, also those that are not run now, and their rivals
    table: str  # one of TABLES


def plan_rivals(config: RivalsConfig) -> RivalsPlan:
    """All rivals on all tasks. Precedence: the recipe's settings for all < a task's < a rival's < flags.

    Raises:
        ConfigError: for a recipe without tasks or rivals, or settings that a method does not accept.
    """
    recipe = read_recipe(config.rivals)
    tasks, rivals = (_mappings(recipe.pop(key, None), key, config.rivals) for key in ("tasks", "rivals"))
    recipe_seeds = recipe.pop("seeds", (0, 1, 2))
    seeds = {name: own.pop("seeds", recipe_seeds) for name, own in rivals.items()}
    seeds = {name: read_seeds(config.seeds or own) for name, own in seeds.items()}
    table = recipe.pop("table", TABLES[0])
    if table not in TABLES:
        raise ConfigError(f"in the recipe {config.rivals}, table must be one of {', '.join(TABLES)}, not {table}")
    _known(config.tasks, tasks, "--tasks")
    given = (key_value(text, "--set") for text in config.settings)
    flags = {key.replace("-", "_"): read_yaml(value, f"--set {key}={value}") for key, value in given}
    tune_steps = {**recipe, **flags}.get("tune_steps")
    for layer in (recipe, flags):
        layer.pop("tune_steps", None)
    files = {
        key: dict(key_value(text, flag) for text in getattr(config, key))
        for key, flag in (("base_checkpoint", "--base-checkpoint"), ("data_dir", "--data-dir"))
    }
    for key, by_task in files.items():
        _known(by_task, tasks, f"--{key.replace('_', '-')}")
    found: dict[str, tuple[Rival, ...]] = {}
    for task in config.tasks or tasks:
        own = {key: by_task[task] for key, by_task in files.items() if task in by_task}
        common = merged(recipe, tasks[task], flags, own)
        _check_common(common, rivals, task)
        found[task] = tuple(
            _rival(task, name, settings, common, flags, tune_steps, seeds[name]) for name, settings in rivals.items()
        )
    return RivalsPlan(found, {task: list(rivals) for task in tasks}, table)


def _rival(
    task: str,
    name: str,
    settings: Mapping[str, Any],
    common: Mapping[str, Any],
    flags: Mapping[str, Any],
    tune_steps: int | None,
    seeds: tuple[int, ...],
) -> Rival:
    own = dict(settings)
    tune = {str(key).replace("-", "_"): values for key, values in (own.pop("tune", None) or {}).items()}
    grid: dict[str, Any] = {
        key: values.get(task) if isinstance(values, dict) else values for key, values in tune.items()
    }
    what = f"{name} on {task}"
    if not all(isinstance(values, list) and values for values in grid.values()):
        raise ConfigError(f"{what}: tune must map settings to lists of values, or to one such list for each task")
    chosen = str(own.get("method", "search"))
    if method(chosen).family == "control":
        raise ConfigError(f"{what}: {chosen} is a control of one jackpot, not a rival")
    if of_the_task := sorted((own.keys() | grid.keys()) & _OF_THE_TASK):
        raise ConfigError(f"{what} sets {of_the_task[0]}, which all rivals of a task share: set it for the task")
    fields = config_of(chosen).model_fields
    fitting, by_flag = ({k: v for k, v in layer.items() if k in fields} for layer in (common, flags))
    grid = {key: values for key, values in grid.items() if key not in by_flag}
    merged_settings = merged(fitting, own, by_flag)
    candidates = tuple(dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    rival = Rival(name, merged_settings, candidates, tune_steps, seeds)
    if AUTO in (merged_settings.get("sparsity"), *grid.get("sparsity", ())):
        raise ConfigError(f"{what}: a rival has a sparsity of its own, not {AUTO}: tune it over values")
    try:
        for candidate in candidates:
            rival.run(candidate, seeds[0])
            rival.tuning_run(candidate, seeds[0])
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    return rival


def _check_common(common: Mapping[str, Any], rivals: Mapping[str, Mapping[str, Any]], task: str) -> None:
    """
    Raises:
        ConfigError: for a setting that no rival has, or that is set here.
    """
    if clash := sorted(_SET_HERE & common.keys()):
        raise ConfigError(f"the task {task} sets {clash[0]}: leave it out, rivals sets it")
    known = {key for rival in rivals.values() for key in config_of(str(rival.get("method", "search"))).model_fields}
    if unknown := sorted(common.keys() - known):
        raise ConfigError(f"the task {task} has the setting {unknown[0]}, which no rival knows: correct its name")


def _mappings(value: object, key: str, recipe: str) -> dict[str, dict[str, Any]]:
    """Names and their settings."""
    if (
        not isinstance(value, dict)
        or not value
        or not all(_NAME.fullmatch(str(name)) and isinstance(settings, dict) for name, settings in value.items())
    ):
        raise ConfigError(f"the recipe {recipe} must have {key}, which map names of at most 40 characters to settings")
    return {str(name): {str(k).replace("-", "_"): v for k, v in found.items()} for name, found in value.items()}


def _known(names: Sequence[str] | Mapping[str, Any], tasks: Mapping[str, Any], flag: str) -> None:
    unknown = sorted(set(names) - tasks.keys())
    if unknown:
        raise ConfigError(f"{flag} names the task {unknown[0]}, which the recipe does not have: {', '.join(tasks)}")
