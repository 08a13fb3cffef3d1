"""Expand a recipe and a grid into searches."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments import PartFlags, key_value, merged, unreplaced
from timm_jackpot.methods import method
from timm_jackpot.recipes import read_recipe, read_seeds, read_yaml
from timm_jackpot.schema import Command
from timm_jackpot.search import RunConfig, config_from

_MAX_SEARCHES, _MAX_NAME = 10_000, 150  # searches per sweep; characters of a cell's name


class SweepConfig(PartFlags):
    """Run searches, or train tickets, over a grid of settings and seeds. Finished runs are not repeated."""

    command: ClassVar[Command | None] = Command(
        "sweep",
        (
            "--recipe digits_vit --output sweeps/vit",
            "--recipe digits --grid sparsity=0.8,0.9,0.95 --seeds 0 1 --output sweeps/s",
            "--recipe digits --part 2/4 --output sweeps/digits    # a quarter of the runs",
        ),
    )

    sweep: str = Field(json_schema_extra={"flags": ["--recipe"]})
    """A bundled recipe by name, or a YAML file: settings of `search`, plus grid (setting: values), cells (a list of
    settings that go together), seeds, and published (figures of a paper, to be shown beside ours)."""
    grid: tuple[str, ...] = ()
    """Settings that add to or replace the recipe's: steps=300 preset=paper,default."""
    seeds: tuple[int, ...] | None = None
    """Seeds of every cell. Default: those of the recipe, or 0 1 2."""
    output: str
    """Folder for the runs, table.csv, table.md and picture.png."""


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid (a cell of the sweep): its name, the settings that vary, and its searches by seed."""

    name: str
    axes: dict[str, Any]
    searches: dict[int, RunConfig]  # without an output folder


def plan_grid(config: SweepConfig) -> list[GridPoint]:
    """All cells of the grid, in the order of the values in the recipe and the flags.

    Raises:
        ConfigError: for an invalid grid, or settings that a search does not accept.
    """
    recipe = read_recipe(config.sweep)
    cells = recipe.pop("cells", None) or [{}]
    grid = recipe.pop("grid", None) or {}
    seeds = read_seeds(config.seeds or recipe.get("seeds") or (0, 1, 2))
    for key in ("seeds", "published"):
        recipe.pop(key, None)
    if not isinstance(grid, dict) or not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ConfigError(
            f"in the recipe {config.sweep}, grid must map settings to lists, and cells must be a list of mappings"
        )
    given = dict(map(_parse_axis, config.grid))  # replace the recipe's settings
    recipe = unreplaced(recipe, given)
    cells = [unreplaced({_setting(key): value for key, value in cell.items()}, given) for cell in cells]
    lists = {_setting(key): values if isinstance(values, list) else [values] for key, values in grid.items()}
    lists = merged(lists, given)
    count = len(cells) * math.prod(map(len, lists.values())) * len(seeds)
    if count > _MAX_SEARCHES:
        raise ConfigError(f"the grid of {config.sweep} names {count} searches: the limit is {_MAX_SEARCHES}")
    cells = _distinct(cells)  # flags may have replaced the settings that differed
    product = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    points = _distinct([{**cell, **point} for cell in cells for point in product])
    if not points:
        raise ConfigError(f"the grid of {config.sweep} has a setting without values: give each setting at least one")
    keys = {key for point in points for key in point}
    varying = {key for key in keys if len({repr(point.get(key)) for point in points}) > 1}
    cells_found = [
        _cell({key: value for key, value in point.items() if key in varying}, {**recipe, **point}, seeds)
        for point in points
    ]
    names = Counter(cell.name for cell in cells_found)
    return [
        # Different values may give the same folder name: add the position.
        replace(cell, name=f"{cell.name}_{i}") if names[cell.name] > 1 else cell
        for i, cell in enumerate(cells_found)
    ]


def _cell(axes: dict[str, Any], settings: Mapping[str, Any], seeds: tuple[int, ...]) -> GridPoint:
    clash = sorted({"seed", "output", "overwrite"} & set(settings))
    if clash:
        raise ConfigError(f"a sweep sets {clash[0]} itself: leave it out of the recipe and the grid")
    name = "_".join(f"{key}-{_word(value)}" for key, value in axes.items())[:_MAX_NAME] or "runs"
    try:
        searches = {seed: config_from({**settings, "seed": seed}) for seed in seeds}
    except ConfigError as error:
        raise ConfigError(f"cell {name}: {error}") from error
    chosen = method(next(iter(searches.values())).method)
    if not chosen.finds_jackpots and not chosen.trains_tickets:
        raise ConfigError(
            f"cell {name}: the method {chosen.name} leaves neither an artifact nor a ticket, so a sweep cannot use it"
        )
    return GridPoint(name, axes, searches)


def _parse_axis(text: str) -> tuple[str, list[Any]]:
    key, values = key_value(text, "--grid")
    return _setting(key), [read_yaml(value, f"--grid {text}") for value in values.split(",")]


def _distinct(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({repr(sorted(point.items())): point for point in points}.values())


def _setting(key: object) -> str:
    return str(key).replace("-", "_")


def _word(value: object) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-.") or "none"
