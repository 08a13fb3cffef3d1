"""The human-readable output of an experiment: text tables and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from timm_jackpot.runtime.outputs import write_atomically


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, and a column for each key of any row."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def mean_std(values: Iterable[float | None], *, digits: int = 2, count: bool = False) -> str:
    """`mean ± standard deviation`, with `(n)` if `count` is set; "–" if there are no values.

    If all values are equal, as for rows without randomness, no deviation is shown.
    """
    found = [value for value in values if value is not None]
    if not found:
        return "–"
    spread = f" ± {stdev(found):.{digits}f}" if len(set(found)) > 1 else ""
    return f"{mean(found):.{digits}f}{spread}" + (f" ({len(found)})" if count else "")


def write_outputs(folder: Path, texts: Mapping[str, str], pictures: Mapping[str, Callable[[], bytes | None]]) -> None:
    """Write text files and, if matplotlib is installed, figures. Call it on the main process only.

    Raises:
        ConfigError: if a file cannot be written.
    """
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    for name, draw in pictures.items() if find_spec("matplotlib") else ():
        if picture := draw():
            write_atomically(folder / name, picture)
