"""A sweep as Markdown: one line per cell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from timm_jackpot.experiments import markdown_table, mean_std
from timm_jackpot.experiments.sweeps.plan import GridPoint

_SEARCHES = {
    "dense": "dense_top1",
    "magnitude": "magnitude_top1",
    "magnitude, statistics re-estimated": "magnitude_recalibrated_top1",
    "jackpot": "jackpot_top1",
}
_TICKETS = {"ticket": "top1", "ticket on held-out images": "validation_top1", "epochs in all": "epochs"}
_OVERLAP = "overlap with the initial mask (by chance)"


def sweep_table(cells: Sequence[GridPoint], rows: Sequence[dict[str, Any]]) -> str:
    """Each cell: settings and top-1 (mean ± standard deviation); for searches also the overlap with the initial mask
    and by chance, for tickets also top-1 on held-out images and the epochs of all their training."""
    axes = list(dict.fromkeys(key for cell in cells for key in cell.axes))
    tickets, searches = ([key in row for row in rows] for key in ("top1", "jackpot_top1"))
    columns = (_SEARCHES if any(searches) else {}) | (_TICKETS if any(tickets) else {})
    lines = []
    for cell in cells:
        of = [row for row in rows if row["cell"] == cell.name]
        lines.append(
            [
                *(str(cell.axes.get(axis, "–")) for axis in axes),
                *(mean_std(row.get(column) for row in of) for column in columns.values()),
                *([_overlap(of)] if any(searches) else []),
                *(f"{mean(row['seconds'] for row in of):.0f}", str(len(of))),
            ]
        )
    return markdown_table([*axes, *columns, *([_OVERLAP] if any(searches) else []), "seconds", "n"], lines)


def _overlap(rows: Sequence[dict[str, Any]]) -> str:
    overlap, chance = (_percent([row.get(key) for row in rows]) for key in ("overlap_start", "overlap_chance"))
    return f"{overlap} ({chance})"


def _percent(fractions: Sequence[float | None]) -> str:
    """Their mean, or "–" for methods without an initial mask."""
    found = [fraction for fraction in fractions if fraction is not None]
    return f"{100 * mean(found):.1f} %" if found else "–"
