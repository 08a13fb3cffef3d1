"""Recipes by name or path: from the wheel's own folder, or the checkout's."""

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
    """`recipes` or `hubcards`: package data in a wheel, top-level folders in a checkout."""
    inside = _HERE / name
    return inside if inside.is_dir() else _HERE.parent / name


def recipe_names() -> list[str]:
    return sorted(path.stem for path in package_folder("recipes").glob("*.yaml"))


class _PlainNumbers(yaml.SafeLoader):
    """YAML 1.2's numbers: 2:4 is no sexagesimal 124, and 1e-3 is a number. Nor has it keys that merge."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing: keys that do can double a mapping a line."""


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


_MOST, _DEEPEST = 100_000, 16  # characters, and values; levels of lists and mappings


def read_yaml(text: str, what: str) -> Any:
    """A YAML document of plain values.

    Args:
        what: what the message calls it.

    Raises:
        ConfigError: if it is none, or larger or deeper than settings ever are.
    """
    if len(text) > _MOST:
        raise ConfigError(f"{what} is longer than settings ever are")
    try:
        value = yaml.load(text, Loader=_PlainNumbers)  # a SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a date, or an int of 5,000 digits
        raise ConfigError(f"{what} is not readable as YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise ConfigError(f"{what} is nested deeper than settings ever are") from None
    _check_size(value, what)
    return value


def _check_size(value: Any, what: str) -> None:
    """Aliases make a few lines of YAML a value without end, once it is walked."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        seen += 1
        if seen > _MOST or depth > _DEEPEST:
            raise ConfigError(f"{what} is larger or nested deeper than settings ever are")
        inside = [*part.keys(), *part.values()] if isinstance(part, dict) else part
        if isinstance(inside, (list, tuple, set)):
            waiting += [(one, depth + 1) for one in inside]


def read_seeds(value: object) -> tuple[int, ...]:
    """The seeds of a recipe or a flag.

    Raises:
        ConfigError: if they are no list of different whole numbers.
    """
    if not isinstance(value, (list, tuple)) or not value or not all(type(seed) is int for seed in value):
        raise ConfigError(f"seeds is a list of whole numbers, as [0, 1, 2], not {value!r}")
    if len(set(value)) != len(value):
        raise ConfigError(f"seeds names one twice ({', '.join(map(str, value))}): the same run twice is no second one")
    return tuple(value)


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe's settings.

    Args:
        name: the name of one that comes with the package, or the path of a YAML file.

    Raises:
        ConfigError: if there is none, or it is not a mapping of settings.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = package_folder("recipes") / f"{name}.yaml"
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(recipe_names())}"
        raise ConfigError(f"there is no recipe {name!r}: {hint}")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is not readable: {error}") from error
    settings = read_yaml(text, f"recipe {path}")
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {path} is not a mapping of settings")
    return {str(key).replace("-", "_"): value for key, value in settings.items()}
