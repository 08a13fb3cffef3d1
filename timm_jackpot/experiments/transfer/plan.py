"""Expand a recipe into the masks to search and the targets to evaluate them on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from timm_jackpot.base import BaseFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.parts import PartFlags
from timm_jackpot.experiments.settings import key_value, merged
from timm_jackpot.recipes import read_recipe, read_seeds, read_yaml
from timm_jackpot.schema import Command, Settings
from timm_jackpot.search import RunConfig, config_from

TRANSFER_CONTROLS = ("dense", "random", "magnitude")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")  # also used as a folder name
_SET_HERE = {"seed", "output", "overwrite", "resume"}
# Settings that determine the base's weights, which all masks of a transfer must share.
_OF_THE_BASE = {*BaseFlags.model_fields, "pretrained"} - {"num_classes", "img_size"}


class TransferConfig(PartFlags):
    """Search masks on source data and evaluate them on target data, with dense, random and magnitude controls.

    Finished searches and cells are not repeated.
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
    """A bundled recipe by name, or a YAML file: settings of `search` for all masks, plus targets (name: settings),
    sources (name: settings; data names a target whose settings they inherit), seeds, head_steps and head_lr (how each
    new head is trained)."""
    base_checkpoint: str | None = None
    """A .safetensors file with the base's weights, instead of the published ones."""
    data_dir: tuple[str, ...] = ()
    """Image folders of targets or sources, as name=folder: cifar10=data/cifar10."""
    settings: tuple[str, ...] = Field(default=(), json_schema_extra={"flags": ["--set"]})
    """Settings that override the recipe's everywhere, as key=value: steps=300 head_steps=50."""
    seeds: tuple[int, ...] | None = None
    """Seeds of searches and new heads. Default: those of the recipe, or 0 1 2."""
    output: str
    """Folder for masks, results, matrix.csv, matrix.md and matrix.png."""


class HeadRule(Settings):
    """How each new head is trained: with the SGD of `search` and a cosine schedule to zero."""

    head_steps: int = Field(default=100, ge=1, le=10**9)
    head_lr: float = Field(default=0.1, ge=1e-12, le=1e6)


@dataclass(frozen=True)
class TransferPlan:
    """Searches by name and seed, without output folders. A target's searches are those for its own data."""

    sources: dict[str, dict[int, RunConfig]]
    targets: dict[str, dict[int, RunConfig]]
    head: HeadRule
    seeds: tuple[int, ...]

    def is_own(self, source: str, target: str) -> bool:
        """Whether a source's search is the target's own: the diagonal of the matrix."""
        return self.sources.get(source) == self.targets[target]


def plan_transfer(config: TransferConfig) -> TransferPlan:
    """All sources and targets. A target's own search is added as a source if it is not one already.

    Precedence: the recipe's settings for all < a target's < a source's < flags.

    Raises:
        ConfigError: for a recipe without targets, invalid names or settings, or settings that would give masks
            different base weights.
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
        raise ConfigError(f"--data-dir names {unknown[0]}, which is neither a target nor a source: choose from {known}")
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
            raise ConfigError(f"source {name}: data {target} is not a target: choose from {', '.join(targets)}")
        start = targets.get(target, {})
        found[name] = searches(f"source {name}", start, own, flags, folder(target), folder(name))
    own_searches = {
        name: searches(f"target {name}", settings, flags, folder(name)) for name, settings in targets.items()
    }
    for name, own in own_searches.items():
        if own not in found.values():
            if name in found:
                raise ConfigError(
                    f"source {name} differs from the own search of target {name}: give the source another name"
                )
            found[name] = own
    return TransferPlan(found, own_searches, head, seeds)


def _search(what: str, settings: dict[str, Any]) -> RunConfig:
    try:
        search = config_from(settings)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    if search.mask_classifier:
        raise ConfigError(f"{what}: mask_classifier: every target gets a new head, which cannot be masked")
    if not search.pretrained:
        raise ConfigError(
            f"{what}: pretrained: false gives every search its own weights, but all masks need the same base"
        )
    return search


def _mappings(value: object, key: str, recipe: str) -> dict[str, dict[str, Any]]:
    """Names and their settings; the settings may be empty."""
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
                f"{what!r}: a name has up to 40 letters, digits and . _ + -, and is not one of "
                f"{', '.join(TRANSFER_CONTROLS)}"
            )
        found[str(name)] = {str(k).replace("-", "_"): v for k, v in (settings or {}).items()}
        _refuse(_SET_HERE & found[str(name)].keys(), what, "sets that itself")
        _refuse(_OF_THE_BASE & found[str(name)].keys(), what, "has one base for all its masks: set it at the top level")
    return found


def _refuse(keys: set[str], what: str, reason: str) -> None:
    if keys:
        raise ConfigError(f"{what} sets {min(keys)}: a transfer {reason}")
