"""What the verbs share: flags from a schema, errors as one sentence and exit code 2, JSON on the last line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import tyro
from pydantic import BaseModel, ValidationError

from timm_jackpot.errors import ConfigError, JackpotError
from timm_jackpot.recipes import read_recipe

C = TypeVar("C", bound=BaseModel)


def parse(
    schema: type[C],
    *,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    recipes: bool = False,
    argv: list[str] | None = None,
) -> C:
    """Flags → `schema`, on top of the recipe and the preset that the flags name.

    Raises:
        ConfigError: for an unknown recipe, or a value outside its bounds.
    """
    argv = sys.argv[1:] if argv is None else argv
    verb = f"python -m {schema.__module__.removesuffix('.__main__').removesuffix('.config')}"
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    if recipes:
        known.add_argument("--recipe")
    named, rest = known.parse_known_args(argv)
    recipe = read_recipe(named.recipe) if recipes and named.recipe else {}
    defaults = _preset(presets or {}, recipe, rest) | recipe
    description = schema.__doc__ or ""
    if recipes:
        description += "\n\n--recipe NAME|FILE.yaml fixes a run: default < preset < recipe < flag."
    try:
        return tyro.cli(
            schema,
            prog=verb,
            description=description,
            args=rest,
            default=_defaults(schema, defaults),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error


def run_verb(main: Callable[[], Mapping[str, Any]]) -> None:
    """Run a verb; print its result as the last line of stdout (main process only)."""
    _quieten()
    try:
        result = main()
    except JackpotError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result, allow_nan=False), flush=True)


def _defaults(schema: type[C], values: Mapping[str, Any]) -> C:
    """Validated defaults; what the schema requires and no recipe gives is left for the flags."""
    missing = [name for name, field in schema.model_fields.items() if field.is_required() and name not in values]
    checked = schema(**values, **dict.fromkeys(missing, ""))
    return checked.model_copy(update=dict.fromkeys(missing, tyro.MISSING))


def _preset(presets: Mapping[str, Mapping[str, Any]], recipe: Mapping[str, Any], argv: list[str]) -> dict[str, Any]:
    """The preset that a flag, or else the recipe, names."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--preset", default=recipe.get("preset"))
    name = finder.parse_known_args(argv)[0].preset
    return dict(presets.get(name, {}))


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = "--" + ".".join(map(str, first["loc"])).replace("_", "-")
    return f"{name} {first.get('input')!r}: {first['msg'].removeprefix('Value error, ')}"


def _quieten() -> None:
    """stderr is for people: libraries' chatter below errors stays out of it."""
    warnings.filterwarnings("ignore", module=r"(?!timm_jackpot)")
    logging.getLogger("timm").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
