"""Accuracy over bytes per task: what an adapter gives for what it takes."""

from __future__ import annotations

from statistics import mean
from typing import Any

from timm_jackpot.plots.numbered import Rows, name_numbers, numbered_panels
from timm_jackpot.plots.style import BLUE, ORANGE, to_png


def adapter_figure(rows: Rows) -> bytes | None:
    """One panel per task: test top-1 (mean, with one standard deviation) over bytes per task, on a log scale.

    Masks are filled circles, everything else open squares, each with a number that the legend explains.

    Args:
        rows: task, rival, top1, mask_bytes, and the bytes of the other kinds; one per seed.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    if not rows:
        return None
    figure = numbered_panels(rows, _kilobytes, _look, xscale="log")
    for panel in figure.axes:
        panel.set_xlabel("kB per task (log scale)", fontsize=8)
    name_numbers(figure, rows)
    return to_png(figure)


def _kilobytes(rows: Rows) -> float:
    return (1 + mean(sum(value for key, value in row.items() if key.endswith("_bytes")) for row in rows)) / 1000


def _look(rows: Rows) -> dict[str, Any]:
    masked = rows[0]["mask_bytes"] > 0
    return {"color": BLUE, "marker": "o"} if masked else {"color": ORANGE, "marker": "s", "mfc": "white"}
