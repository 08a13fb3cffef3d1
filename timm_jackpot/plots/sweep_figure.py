"""A sweep in one picture: accuracy over the setting that varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from timm_jackpot.plots.style import COLOURS, GREY, finish, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CONTROLS = {
    "magnitude one-shot": "magnitude_top1",
    "magnitude one-shot, statistics re-estimated": "magnitude_recalibrated_top1",
}


def sweep_figure(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> bytes:
    """Top-1 of the jackpots, mean ± standard deviation over seeds, as a PNG.

    Over the first of `axes` that is a number, one line for each combination of the others; without such a setting,
    one point for each cell. The dense base is a dashed line; the magnitude controls (means over the rows) are grey.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    figure = new_figure(7, 4.2)
    plot = figure.subplots()
    across = next((axis for axis in axes if all(_is_number(row.get(axis)) for row in rows)), None)
    if across is None:
        _draw_cells(plot, rows)
    else:
        _draw_lines(plot, rows, across, [axis for axis in axes if axis != across])
    dense = {row["dense_top1"] for row in rows if row.get("dense_top1") is not None}
    if len(dense) == 1:
        plot.axhline(dense.pop(), color=GREY, linewidth=1, linestyle="--", label="dense base")
    plot.set_ylabel("top-1 on the test split (%)")
    finish(plot)
    return to_png(figure)


def _draw_lines(plot: Axes, rows: Sequence[Mapping[str, Any]], across: str, others: Sequence[str]) -> None:
    lines: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        name = ", ".join(f"{axis} {row.get(axis)}" for axis in others) or "jackpot"
        lines.setdefault(name, {}).setdefault(float(row[across]), []).append(row["jackpot_top1"])
    for i, (name, points) in enumerate(lines.items()):
        x = sorted(points)
        means, spreads = [mean(points[p]) for p in x], [_spread(points[p]) for p in x]
        colour, marker = COLOURS[i % len(COLOURS)], "osD^vP"[i % 6]
        plot.errorbar(x, means, spreads, color=colour, marker=marker, markersize=5, capsize=3, label=name)
    for style, (name, key) in zip((":", "-."), _CONTROLS.items(), strict=True):
        told: dict[float, list[float]] = {}
        for row in rows:
            if row.get(key) is not None:
                told.setdefault(float(row[across]), []).append(row[key])
        if told:
            x = sorted(told)
            plot.plot(x, [mean(told[p]) for p in x], color=GREY, linestyle=style, marker="x", markersize=4, label=name)
    plot.set_xlabel(across.replace("_", " "))


def _draw_cells(plot: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    cells: dict[str, list[float]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row["jackpot_top1"])
    x = range(len(cells))
    means, spreads = [mean(values) for values in cells.values()], [_spread(values) for values in cells.values()]
    plot.errorbar(x, means, spreads, color=COLOURS[0], marker="o", linestyle="none", capsize=3, label="jackpot")
    plot.set_xticks(x, list(cells), rotation=30, ha="right", fontsize=8)


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _is_number(value: object) -> bool:
    try:
        float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)
