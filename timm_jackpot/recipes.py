"""Recipes by name (from the wheel or the checkout) or by path."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

import yaml

from timm_jackpot.errors import ConfigError

_HERE = Path(__file__).parent


def package_folder(name: str) -> Path:
    """Path of `recipes` or `hubcards`: package data in a wheel, top-level folders in a checkout."""
    inside = _HERE / name
    return inside if inside.is_dir() else _HERE.parent / name


def recipe_names() -> list[str]:
    return sorted(path.stem for path in package_folder("recipes").glob("*.yaml"))


class _PlainNumbers(yaml.SafeLoader):
    """Numbers as in YAML 1.2 (2:4 is not the sexagesimal 124, 1e-3 is a number), and no merge keys."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Do nothing: merge keys can double the size of a mapping with every line."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_PlainNumbers.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainNumbers.add_implicit_resolver(_NUMBERS[0], re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_PlainNumbers.add_implicit_resolver(
    _NUMBERS[1],
    re.compile(r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|^[-+]?[0-9]+[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


_MAX_SIZE, _MAX_DEPTH = 100_000, 16  # characters, and values; levels of lists and mappings


def read_yaml(text: str, what: str) -> Any:
    """Parse a YAML document of plain values.

    Args:
        what: name of the document in error messages.

    Raises:
        ConfigError: if it is not valid YAML, too large or nested too deeply.
    """
    if len(text) > _MAX_SIZE:
        raise ConfigError(f"{what} is too long: settings have at most {_MAX_SIZE:,} characters")
    try:
        value = yaml.load(text, Loader=_PlainNumbers)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{what} is not valid YAML: {where}{error.problem}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a date, or an int of 5,000 digits
        raise ConfigError(f"{what} is not valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise ConfigError(f"{what} is nested too deeply: at most {_MAX_DEPTH} levels are allowed") from None
    _check_size(value, what)
    return value


def _check_size(value: Any, what: str) -> None:
    """Refuse huge values: with aliases, a few lines of YAML can expand without end."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        seen += 1
        if seen > _MAX_SIZE or depth > _MAX_DEPTH:
            raise ConfigError(
                f"{what} is too large or nested too deeply: at most {_MAX_SIZE:,} values and {_MAX_DEPTH} levels are "
                "allowed"
            )
        inside = [*part.keys(), *part.values()] if isinstance(part, dict) else part
        if isinstance(inside, (list, tuple, set)):
            waiting += [(one, depth + 1) for one in inside]


def read_seeds(value: object) -> tuple[int, ...]:
    """Check the seeds of a recipe or a flag.

    Raises:
        ConfigError: if they are not a list of distinct integers.
    """
    if not isinstance(value, (list, tuple)) or not value or not all(type(seed) is int for seed in value):
        raise ConfigError(f"seeds must be a list of integers such as [0, 1, 2], not {value!r}")
    if len(set(value)) != len(value):
        raise ConfigError(f"seeds contains duplicates ({', '.join(map(str, value))}): give each seed once")
    return tuple(value)


def read_recipe(name: str) -> dict[str, Any]:
    """Read a recipe's settings.

    Args:
        name: the name of a bundled recipe, or the path of a YAML file.

    Raises:
        ConfigError: if the recipe does not exist, cannot be read or is not a mapping of settings.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = package_folder("recipes") / f"{name}.yaml"
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(recipe_names())}"
        raise ConfigError(f"there is no recipe {name!r}: {hint}")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_SIZE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {error}") from error
    settings = read_yaml(text, f"recipe {path}")
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {path} is not a mapping of settings")
    return {str(key).replace("-", "_"): value for key, value in settings.items()}
