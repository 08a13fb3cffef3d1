"""From a recipe and a grid to the searches that they name."""

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
from timm_jackpot.experiments import key_value, merged, unreplaced
from timm_jackpot.methods import method
from timm_jackpot.recipes import read_recipe, read_seeds, read_yaml
from timm_jackpot.schema import Command, Settings
from timm_jackpot.search import RunConfig, config_from

_MOST, _LONGEST = 10_000, 150  # searches of a sweep; characters of a cell's name


class SweepConfig(Settings):
    """A recipe of searches over a grid of settings and seeds. A run that is done already is not done again."""

    command: ClassVar[Command | None] = Command(
        "sweep",
        (
            "--recipe digits_vit --output sweeps/vit",
            "--recipe digits --grid sparsity=0.8,0.9,0.95 --seeds 0 1 --output sweeps/s",
            "--recipe digits --grid method=search,paper,snip --output sweeps/methods",
        ),
    )

    sweep: str = Field(json_schema_extra={"flags": ["--recipe"]})
    """A recipe that comes with the package, or a YAML file: settings of `search`, and, of its own, grid (setting:
    values), cells (a list of settings that go together) and seeds."""
    grid: tuple[str, ...] = ()
    """Settings beside or instead of the recipe's, as key=value or key=value,value: steps=300 preset=paper,default."""
    seeds: tuple[int, ...] | None = None
    """Seeds of every cell. Default: the recipe's, else 0 1 2."""
    output: str
    """Folder for the runs, table.csv, table.md and picture.png."""


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid: what it is called, where it differs from the others, and its searches by seed."""

    name: str
    axes: dict[str, Any]
    searches: dict[int, RunConfig]  # without an output folder


def plan_grid(config: SweepConfig) -> list[GridPoint]:
    """Every cell of the grid, in the order in which the recipe and the flags name the values.

    Raises:
        ConfigError: for a grid that is none, or settings that no search takes.
    """
    recipe = read_recipe(config.sweep)
    cells = recipe.pop("cells", None) or [{}]
    grid = recipe.pop("grid", None) or {}
    seeds = read_seeds(config.seeds or recipe.get("seeds") or (0, 1, 2))
    recipe.pop("seeds", None)
    if not isinstance(grid, dict) or not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ConfigError(f"in the recipe {config.sweep}, grid must map settings to lists, and cells list mappings")
    given = dict(map(_parse_axis, config.grid))  # in the place of the recipe's own
    recipe = unreplaced(recipe, given)
    cells = [unreplaced({_setting(key): value for key, value in cell.items()}, given) for cell in cells]
    lists = {_setting(key): values if isinstance(values, list) else [values] for key, values in grid.items()}
    lists = merged(lists, given)
    count = len(cells) * math.prod(map(len, lists.values())) * len(seeds)
    if count > _MOST:
        raise ConfigError(f"the grid of {config.sweep} names {count} searches: a sweep takes {_MOST} at most")
    cells = _different(cells)  # what differed may have been replaced
    product = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    points = _different([{**cell, **point} for cell in cells for point in product])
    if not points:
        raise ConfigError(f"the grid of {config.sweep} names no values: give each setting one at least")
    keys = {key for point in points for key in point}
    varying = {key for key in keys if len({repr(point.get(key)) for point in points}) > 1}
    cells_found = [
        _cell({key: value for key, value in point.items() if key in varying}, {**recipe, **point}, seeds)
        for point in points
    ]
    names = Counter(cell.name for cell in cells_found)
    return [
        # Values that read alike as a folder's name: told apart by their place.
        replace(cell, name=f"{cell.name}_{i}") if names[cell.name] > 1 else cell
        for i, cell in enumerate(cells_found)
    ]


def _cell(axes: dict[str, Any], settings: Mapping[str, Any], seeds: tuple[int, ...]) -> GridPoint:
    clash = sorted({"seed", "output", "overwrite"} & set(settings))
    if clash:
        raise ConfigError(f"a sweep sets {clash[0]} itself: leave it out of the recipe and the grid")
    name = "_".join(f"{key}-{_word(value)}" for key, value in axes.items())[:_LONGEST] or "runs"
    try:
        searches = {seed: config_from({**settings, "seed": seed}) for seed in seeds}
    except ConfigError as error:
        raise ConfigError(f"cell {name}: {error}") from error
    chosen = next(iter(searches.values())).method
    if not method(chosen).finds_jackpots:
        raise ConfigError(f"cell {name}: the method {chosen} finds no jackpot, which every run of a sweep has to")
    return GridPoint(name, axes, searches)


def _parse_axis(text: str) -> tuple[str, list[Any]]:
    key, values = key_value(text, "--grid")
    return _setting(key), [read_yaml(value, f"--grid {text}") for value in values.split(",")]


def _different(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({repr(sorted(point.items())): point for point in points}.values())


def _setting(key: object) -> str:
    return str(key).replace("-", "_")


def _word(value: object) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-.") or "none"
