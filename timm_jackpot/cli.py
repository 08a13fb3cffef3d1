"""What all verbs share: flags from a schema, errors as one sentence with exit code 2, JSON on the last line.

argparse only splits the command line. Types and bounds are checked by the pydantic schema, so that flags, recipes and
presets follow the same rules.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import torch
from pydantic.fields import FieldInfo

from timm_jackpot.errors import ConfigError, JackpotError, RunInterrupted
from timm_jackpot.recipes import read_recipe
from timm_jackpot.runtime.processes import explain_lost_process, launched_as_main, leave_process_group
from timm_jackpot.runtime.streams import harmless_streams
from timm_jackpot.schema import Settings, aliases_of, choices_of, flag_of, kind_of

S = TypeVar("S", bound=Settings)
_TRACEBACK = "--traceback"
_LONGEST_LINE = 1000  # characters of an error message, which may contain names of any length


def parse(
    schema: type[S],
    *,
    recipes: bool = False,
    argv: list[str] | None = None,
    schema_of: Callable[[str], type[S]] | None = None,
) -> S:
    """Parse flags into `schema`. Precedence: default < preset (handled by the schema) < recipe < flag.

    Args:
        recipes: whether to accept --recipe.
        argv: the command line; default: sys.argv[1:].
        schema_of: maps a method's name to its schema, used when a flag or the recipe names a method.

    Raises:
        ConfigError: for an unknown flag or recipe, or a value outside its bounds.
    """
    words = sys.argv[1:] if argv is None else argv
    if schema_of is not None:
        name = _last_given(words, "--method")
        if name is None and (recipe_name := _last_given(words, "--recipe")) is not None:
            name = read_recipe(recipe_name).get("method")
        schema = schema if name is None else schema_of(str(name))
    parser = _Parser(
        description=schema.__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if recipes:
        parser.add_argument("--recipe", metavar="NAME|FILE", help="A bundled recipe by name, or a YAML file.")
    for name, field in schema.model_fields.items():
        _add_flag(parser, name, field)
    parser.add_argument(_TRACEBACK, action="store_true", help="Print a traceback when the run fails.")
    flags = vars(parser.parse_args(words))
    flags.pop("traceback", None)  # run_verb reads it from sys.argv, as parsing itself may fail
    recipe = read_recipe(flags.pop("recipe")) if "recipe" in flags else {}
    if {"steps", "epochs"} & set(flags):  # either flag replaces both settings of the recipe
        recipe = {key: value for key, value in recipe.items() if key not in ("steps", "epochs")}
    return schema(**{**recipe, **flags})


def _last_given(words: list[str], flag: str) -> str | None:
    values = [after for word, after in itertools.pairwise(words) if word == flag]
    values += [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    return values[-1] if values else None


@harmless_streams()
def run_verb(main: Callable[[], Mapping[str, Any]]) -> None:
    """Run a verb and print its result as the last line of stdout (main process only)."""
    _quieten()
    try:
        with explain_lost_process():
            result = main()
            leave_process_group()
            last_line = json.dumps(result, allow_nan=False)
    except RunInterrupted as error:
        _end(128 + error.signal, f"stopped: {error}")
    except JackpotError as error:
        _end(2, f"error: {error}")
    except KeyboardInterrupt:
        _end(130, "error: interrupted")
    except Exception as error:
        if _is_out_of_memory(error):
            _end(2, "error: out of memory: lower --batch-size or --img-size, or use a smaller model")
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        _end(1, f"unexpected error: {what}; run again with {_TRACEBACK} to see where, and please report it")
    if launched_as_main():
        print(last_line, flush=True)


def _end(code: int, sentence: str) -> NoReturn:
    """Print the reason on one line and exit; the other processes notice the closed connection."""
    line = "".join(letter if letter.isprintable() else " " for letter in sentence)
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # stderr is closed; the exit code still tells
            if _TRACEBACK in sys.argv:
                traceback.print_exc()
            print(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …", file=sys.stderr, flush=True)
    sys.exit(code)


def _is_out_of_memory(error: Exception) -> bool:
    # torch has an exception class for GPU memory, but only a message for host memory.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help lists the flags)")


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    names = [*(flag for flag in aliases_of(field) if not flag.startswith("--")), flag_of(name, field)]
    kind = kind_of(field.annotation)
    text = (field.description or "").replace("\n", " ").replace("%", "%%")
    choices = get_args(kind) if get_origin(kind) is Literal else choices_of(field)
    if choices:
        text += f" One of: {', '.join(map(str, choices))}."
    if not field.is_required() and field.default not in (None, (), False):
        text += f" [{field.default}]"
    if extra.get("positional"):
        parser.add_argument(name, nargs="*", help=text)
    elif kind is bool:
        parser.add_argument(*names, dest=name, action=argparse.BooleanOptionalAction, help=text)
    elif get_origin(kind) is tuple:
        parser.add_argument(*names, dest=name, nargs="*", metavar="…", help=text)
    else:
        parser.add_argument(*names, dest=name, metavar=name.upper(), help=text)


def _quieten() -> None:
    """Silence warnings and info messages of libraries: stderr is for the user."""
    warnings.filterwarnings("ignore", module=r"(?!timm_jackpot)")
    logging.getLogger("timm").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
