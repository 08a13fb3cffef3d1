"""What all verbs share: flags from a schema, errors as one sentence with exit code 2, the result on stdout.

argparse only splits the command line. Types and bounds are checked by the pydantic schema, so that flags, recipes and
presets follow the same rules.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import torch

from timm_jackpot.errors import JackpotError, RunInterrupted
from timm_jackpot.flags import JSON, TRACEBACK, parser_of, split
from timm_jackpot.recipes import read_recipe
from timm_jackpot.runtime.processes import explain_lost_process, launched_as_main, leave_process_group
from timm_jackpot.runtime.streams import harmless_streams
from timm_jackpot.schema import Settings

S = TypeVar("S", bound=Settings)
_LONGEST_LINE = 1000  # characters of an error message, which may contain names of any length


def parse(schema: type[S], *, argv: list[str] | None = None, schema_of: Callable[[str], type[S]] | None = None) -> S:
    """Parse flags into `schema`. Precedence: default < preset (handled by the schema) < recipe < flag.

    Args:
        argv: the command line; default: sys.argv[1:].
        schema_of: maps a method's name to its schema, used when a flag or the recipe names a method.

    Raises:
        ConfigError: for an unknown flag or recipe, or a value outside its bounds.
    """
    words = sys.argv[1:] if argv is None else argv
    common = schema
    if schema_of is not None:
        name = _last_given(words, "--method")
        if name is None and (recipe_name := _last_given(words, "--recipe")) is not None:
            name = read_recipe(recipe_name).get("method")
        schema = schema if name is None else schema_of(str(name))
    flags = split(parser_of(schema, common, everything="--help-all" in words), words)
    recipe = read_recipe(flags.pop("recipe")) if "recipe" in flags else {}
    if {"steps", "epochs"} & set(flags):  # either flag replaces both settings of the recipe
        recipe = {key: value for key, value in recipe.items() if key not in ("steps", "epochs")}
    return schema(**{**recipe, **flags})


def _last_given(words: list[str], flag: str) -> str | None:
    value = None
    for word, after in itertools.zip_longest(words, words[1:]):
        if word == flag and after is not None:
            value = after
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def show(table: str) -> None:
    """Print a verb's table, on the main process; with --json stdout has the JSON line alone."""
    if launched_as_main() and JSON not in sys.argv:
        print(table)


def as_lines(result: Mapping[str, Any]) -> str:
    """A result as a table of two columns: its names and its values."""
    width = max(map(len, result))
    return "\n".join(
        f"{name:<{width}}  {round(value, 4) if isinstance(value, float) else value}" for name, value in result.items()
    )


@harmless_streams()
def run_verb(main: Callable[[], Mapping[str, Any]]) -> None:
    """Run a verb. Its result is the last line of stdout, unless that is a terminal (main process only)."""
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
        _end(1, f"unexpected error: {what}; run again with {TRACEBACK} to see where, and please report it")
    if launched_as_main() and (JSON in sys.argv or not sys.stdout.isatty()):
        print(last_line, flush=True)


def _end(code: int, sentence: str) -> NoReturn:
    """Print the reason on one line and exit; the other processes notice the closed connection."""
    line = "".join(letter if letter.isprintable() else " " for letter in sentence)
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # stderr is closed; the exit code still tells
            if TRACEBACK in sys.argv:
                traceback.print_exc()
            print(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …", file=sys.stderr, flush=True)
    sys.exit(code)


def _is_out_of_memory(error: Exception) -> bool:
    # torch has an exception class for GPU memory, but only a message for host memory.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _quieten() -> None:
    """Silence warnings and info messages of libraries: stderr is for the user."""
    warnings.filterwarnings("ignore", module=r"(?!timm_jackpot)")
    logging.getLogger("timm").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
