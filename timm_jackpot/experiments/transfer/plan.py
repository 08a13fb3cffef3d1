"""From a recipe to the masks that are searched, and the sets on which each is judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from timm_jackpot.base import BaseFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.settings import key_value, merged
from timm_jackpot.recipes import read_recipe, read_seeds, read_yaml
from timm_jackpot.schema import Command, Settings
from timm_jackpot.search import RunConfig, config_from

TRANSFER_CONTROLS = ("dense", "random", "magnitude")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")  # also a folder's
_SET_HERE = {"seed", "output", "overwrite", "resume"}
# What says which weights lie under the masks: one set of them, or no mask could be carried from one to the other.
_OF_THE_BASE = {*BaseFlags.model_fields, "pretrained"} - {"num_classes", "img_size"}


class TransferConfig(Settings):
    """Masks found on source sets, judged on target sets beside dense, random and magnitude masks of the same base.

    What is done already is not done again.
    """

    command: ClassVar[Command | None] = Command(
        "transfer",
        (
            "--recipe transfer_small --data-dir cifar10=data/cifar10 --output transfer",
            "--recipe transfer_small --set steps=300 --seeds 0 --output quick",
            "--recipe mine.yaml --base-checkpoint base.safetensors --output transfer",
        ),
    )

    transfer: str = Field(json_schema_extra={"flags": ["--recipe"]})
    """A recipe that comes with the package, or a YAML file: settings of `search` for all masks, and, of its own,
    targets (name: settings), sources (name: settings; data names the target from whose settings they start), seeds,
    head_steps and head_lr (how the new head of every judged network is trained)."""
    base_checkpoint: str | None = None
    """A .safetensors file with the base's weights, instead of the published ones."""
    data_dir: tuple[str, ...] = ()
    """Folders of the images of targets or sources, as name=folder: cifar10=data/cifar10."""
    settings: tuple[str, ...] = Field(default=(), json_schema_extra={"flags": ["--set"]})
    """Settings in the place of the recipe's, wherever it has them, as key=value: steps=300 head_steps=50."""
    seeds: tuple[int, ...] | None = None
    """Seeds of every search and of every new head. Default: the recipe's, else 0 1 2."""
    output: str
    """Folder for the masks, the record of the cells, matrix.csv, matrix.md and matrix.png."""


class HeadRule(Settings):
    """How the new head of every judged network is trained: by `search`'s SGD, with cosine to zero."""

    head_steps: int = Field(default=100, ge=1, le=10**9)
    head_lr: float = Field(default=0.1, ge=1e-12, le=1e6)


@dataclass(frozen=True)
class TransferPlan:
    """Searches by name and seed, without output folders; of a target, those that would be its own."""

    sources: dict[str, dict[int, RunConfig]]
    targets: dict[str, dict[int, RunConfig]]
    head: HeadRule
    seeds: tuple[int, ...]

    def is_own(self, source: str, target: str) -> bool:
        """Whether a source's search is the one that the target would get for itself: the diagonal."""
        return self.sources.get(source) == self.targets[target]


def plan_transfer(config: TransferConfig) -> TransferPlan:
    """Every search and every target; a target whose own search is no source becomes one.

    Precedence: the recipe's settings for all < a target's < a source's < flags.

    Raises:
        ConfigError: for a recipe without targets, names that are none, settings that no search takes, or settings
            that would put the masks on different weights.
    """
    recipe = read_recipe(config.transfer)
    targets, sources = (_mappings(recipe.pop(key, None), key, config.transfer) for key in ("targets", "sources"))
    if not targets:
        raise ConfigError(f"the recipe {config.transfer} names no targets: give it targets, as name: settings")
    seeds = read_seeds(config.seeds or recipe.get("seeds", (0, 1, 2)))
    recipe.pop("seeds", None)
    given = (key_value(text, "--set") for text in config.settings)
    flags = {key.replace("-", "_"): read_yaml(value, f"--set {key}={value}") for key, value in given}
    if config.base_checkpoint is not None:
        flags["base_checkpoint"] = config.base_checkpoint
    folders = dict(key_value(text, "--data-dir") for text in config.data_dir)
    unknown = sorted(folders.keys() - targets.keys() - sources.keys())
    if unknown:
        known = ", ".join(dict.fromkeys((*targets, *sources)))
        raise ConfigError(f"--data-dir names {unknown[0]}, which is neither target nor source: there are {known}")
    head = HeadRule(**{key: value for key, value in {**recipe, **flags}.items() if key.startswith("head_")})
    recipe, flags = ({k: v for k, v in part.items() if not k.startswith("head_")} for part in (recipe, flags))
    _refuse(_SET_HERE & (recipe.keys() | flags.keys()), f"the recipe {config.transfer} or --set", "sets that itself")

    def folder(name: str) -> dict[str, str]:
        return {"data_dir": folders[name]} if name in folders else {}

    def searches(what: str, *layers: Mapping[str, Any]) -> dict[int, RunConfig]:
        settings = merged(recipe, *layers)
        return {seed: _search(what, {**settings, "seed": seed}) for seed in seeds}

    found: dict[str, dict[int, RunConfig]] = {}
    for name, settings in sources.items():
        own = dict(settings)
        target = str(own.pop("data", ""))
        if target and target not in targets:
            raise ConfigError(f"source {name}: data {target} is no target: there are {', '.join(targets)}")
        start = targets.get(target, {})
        found[name] = searches(f"source {name}", start, own, flags, folder(target), folder(name))
    judged = {name: searches(f"target {name}", settings, flags, folder(name)) for name, settings in targets.items()}
    for name, own in judged.items():
        if own not in found.values():
            if name in found:
                raise ConfigError(f"source {name} is not the target {name}'s own search: give it another name")
            found[name] = own
    return TransferPlan(found, judged, head, seeds)


def _search(what: str, settings: dict[str, Any]) -> RunConfig:
    try:
        search = config_from(settings)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    if search.mask_classifier:
        raise ConfigError(f"{what}: mask_classifier: every target gets a new head, which no mask can cover")
    if not search.pretrained:
        raise ConfigError(f"{what}: pretrained: false draws other weights for every search: masks need one base")
    return search


def _mappings(value: object, key: str, recipe: str) -> dict[str, dict[str, Any]]:
    """Names and their settings; a name with nothing after it has none of its own."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        settings is None or isinstance(settings, dict) for settings in value.values()
    ):
        raise ConfigError(f"in the recipe {recipe}, {key} must map names to settings")
    found: dict[str, dict[str, Any]] = {}
    for name, settings in value.items():
        what = f"{key[:-1]} {name}"
        if not _NAME.fullmatch(str(name)) or name in TRANSFER_CONTROLS:
            raise ConfigError(
                f"{what!r}: a name is up to 40 letters, digits and . _ + -, and none of {', '.join(TRANSFER_CONTROLS)}"
            )
        found[str(name)] = {str(k).replace("-", "_"): v for k, v in (settings or {}).items()}
        _refuse(_SET_HERE & found[str(name)].keys(), what, "sets that itself")
        _refuse(_OF_THE_BASE & found[str(name)].keys(), what, "has one base for all its masks: set it for all")
    return found


def _refuse(keys: set[str], what: str, reason: str) -> None:
    if keys:
        raise ConfigError(f"{what} sets {min(keys)}: a transfer {reason}")
