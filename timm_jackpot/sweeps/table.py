"""The rows of a sweep as text: one line per run (csv), one line per cell (markdown)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from timm_jackpot.sweeps.plan import Cell

_COLUMNS = {
    "dense": "dense_top1",
    "magnitude": "magnitude_top1",
    "magnitude, statistics re-estimated": "magnitude_recalibrated_top1",
    "jackpot": "jackpot_top1",
}


def csv_table(rows: Sequence[dict[str, Any]]) -> str:
    """Every run with all of its figures."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown_table(cells: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> str:
    """Every cell: its settings, top-1 as mean ± standard deviation over seeds, overlap with its start beside chance."""
    axes = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    head = [*axes, *_COLUMNS, "overlap with the start (by chance)", "seconds", "n"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for cell in cells:
        of = [row for row in rows if row["cell"] == cell.name]
        if not of:
            continue
        texts = [str(cell.axes.get(axis, "–")) for axis in axes]
        texts += [_mean(of, column) for column in _COLUMNS.values()]
        overlap, chance = (100 * mean(row[key] for row in of) for key in ("overlap_start", "overlap_chance"))
        texts += [f"{overlap:.1f} % ({chance:.1f} %)", f"{mean(row['seconds'] for row in of):.0f}", str(len(of))]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def _mean(rows: Sequence[dict[str, Any]], column: str) -> str:
    values = [row[column] for row in rows if row.get(column) is not None]
    if not values:
        return "–"
    # What does not depend on the seed has no spread to show.
    spread = f" ± {stdev(values):.2f}" if len(set(values)) > 1 else ""
    return f"{mean(values):.2f}{spread}"
