"""What an experiment leaves for people: tables, and pictures where they can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from timm_jackpot.outputs import write_atomically


def write_outputs(folder: Path, texts: Mapping[str, str], pictures: Mapping[str, Callable[[], bytes | None]]) -> None:
    """Write texts, and, where matplotlib is installed, those pictures that there are; for the main process.

    Raises:
        ConfigError: if a file cannot be written.
    """
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    for name, draw in pictures.items() if find_spec("matplotlib") else ():
        if picture := draw():
            write_atomically(folder / name, picture)
