"""A sweep as Markdown: one line per cell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from timm_jackpot.experiments import markdown_table, mean_std
from timm_jackpot.experiments.sweeps.plan import GridPoint

_COLUMNS = {
    "dense": "dense_top1",
    "magnitude": "magnitude_top1",
    "magnitude, statistics re-estimated": "magnitude_recalibrated_top1",
    "jackpot": "jackpot_top1",
}


def sweep_table(cells: Sequence[GridPoint], rows: Sequence[dict[str, Any]]) -> str:
    """Each cell: settings, top-1 (mean ± standard deviation), overlap with the initial mask and by chance."""
    axes = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    lines = []
    for cell in cells:
        of = [row for row in rows if row["cell"] == cell.name]
        overlap, chance = (_percent([row[key] for row in of]) for key in ("overlap_start", "overlap_chance"))
        lines.append(
            [
                *(str(cell.axes.get(axis, "–")) for axis in axes),
                *(mean_std(row.get(column) for row in of) for column in _COLUMNS.values()),
                *(f"{overlap} ({chance})", f"{mean(row['seconds'] for row in of):.0f}", str(len(of))),
            ]
        )
    return markdown_table([*axes, *_COLUMNS, "overlap with the initial mask (by chance)", "seconds", "n"], lines)


def _percent(fractions: Sequence[float | None]) -> str:
    """Their mean, or "–" for methods without an initial mask."""
    found = [fraction for fraction in fractions if fraction is not None]
    return f"{100 * mean(found):.1f} %" if found else "–"
