"""A sweep as Markdown: one line per cell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from timm_jackpot.experiments import markdown_table, mean_std
from timm_jackpot.sweeps.plan import Cell

_COLUMNS = {
    "dense": "dense_top1",
    "magnitude": "magnitude_top1",
    "magnitude, statistics re-estimated": "magnitude_recalibrated_top1",
    "jackpot": "jackpot_top1",
}


def sweep_table(cells: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> str:
    """Every cell: its settings, top-1 as mean ± standard deviation over seeds, overlap with its start beside chance."""
    axes = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    lines = []
    for cell in cells:
        of = [row for row in rows if row["cell"] == cell.name]
        overlap, chance, seconds = (
            mean(row[key] for row in of) for key in ("overlap_start", "overlap_chance", "seconds")
        )
        lines.append(
            [
                *(str(cell.axes.get(axis, "–")) for axis in axes),
                *(mean_std(row.get(column) for row in of) for column in _COLUMNS.values()),
                *(f"{100 * overlap:.1f} % ({100 * chance:.1f} %)", f"{seconds:.0f}", str(len(of))),
            ]
        )
    return markdown_table([*axes, *_COLUMNS, "overlap with the start (by chance)", "seconds", "n"], lines)
