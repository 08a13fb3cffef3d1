"""Recipes by name or path: from the wheel's own folder, or the checkout's."""

from __future__ import annotations

import difflib
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
    """YAML 1.2's numbers: 2:4 is no sexagesimal 124, and 1e-3 is a number."""


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


def read_yaml(text: str) -> Any:
    """A YAML document of plain values.

    Raises:
        yaml.YAMLError: if it is none.
    """
    return yaml.load(text, Loader=_PlainNumbers)  # a SafeLoader


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
    if not path.is_file():
        near = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(recipe_names())}"
        raise ConfigError(f"there is no recipe {name!r}: {hint}")
    try:
        settings = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"recipe {path} is not readable as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {path} is not a mapping of settings")
    return {str(key).replace("-", "_"): value for key, value in settings.items()}
