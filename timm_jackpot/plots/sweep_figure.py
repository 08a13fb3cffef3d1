"""A sweep in two pictures: accuracy over the setting that varies, and over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from timm_jackpot.plots.style import GRAY, finish, new_figure, series, to_png
from timm_jackpot.training import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Combination = tuple[str, ...]  # values of the settings that tell the lines apart
_FOUND = "found_top1"  # of what a run leaves: a jackpot or a ticket
_MAGNITUDE_LINES = {
    "magnitude one-shot": "magnitude_top1",
    "magnitude one-shot, statistics re-estimated": "magnitude_recalibrated_top1",
}


def sweep_figure(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> bytes:
    """Top-1 of the jackpots or tickets, mean ± standard deviation over seeds, as a PNG.

    Over the first of `axes` that is a number, one line for each combination of the others; without such a setting,
    one point for each cell. The dense base is a dashed line; the magnitude controls are gray, one line for each
    combination on which they depend.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    figure = new_figure(7, 4.2)
    plot = figure.subplots()
    kind = "jackpot" if any("jackpot_top1" in row for row in rows) else "ticket"
    rows = [{_FOUND: row.get("jackpot_top1", row.get("top1")), **row} for row in rows]
    across = next((axis for axis in axes if all(_is_number(row.get(axis)) for row in rows)), None)
    if across is None:
        _draw_cells(plot, rows, kind)
    else:
        _draw_lines(plot, rows, across, [axis for axis in axes if axis != across], kind)
    dense = {row["dense_top1"] for row in rows if row.get("dense_top1") is not None}
    if len(dense) == 1:
        plot.axhline(dense.pop(), color=GRAY, linewidth=1, linestyle="--", label="dense base")
    plot.set_ylabel("top-1 on the test split (%)")
    _finish(figure, plot)
    return to_png(figure)


def convergence_figure(records: Mapping[str, Sequence[Record]]) -> bytes | None:
    """Held-out top-1 over the steps, one line for each name, the mean of its records; as a PNG.

    Returns None where no record holds two validations: nothing converges there.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    lines: dict[str, dict[int, list[float]]] = {}
    for name, runs in records.items():
        for event in (event for run in runs for event in run.of("validation")):
            lines.setdefault(name, {}).setdefault(event["step"], []).append(event["top1"])
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    figure = new_figure(7, 4.2)
    plot = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        steps = sorted(points)
        plot.plot(steps, [mean(points[step]) for step in steps], label=name, **series(i))
    plot.set_xlabel("step")
    plot.set_ylabel("top-1 on held-out images (%)")
    _finish(figure, plot)
    return to_png(figure)


def _finish(figure: Figure, plot: Axes) -> None:
    """Put the legend above the axes, so that it hides no line, and make room for it."""
    entries = len(plot.get_legend_handles_labels()[0])
    figure.set_figheight(4 + 0.1 * entries)
    finish(plot, legend="above", columns=2)


def _draw_lines(plot: Axes, rows: Sequence[Mapping[str, Any]], across: str, others: Sequence[str], kind: str) -> None:
    for i, (name, points) in enumerate(_points(rows, _FOUND, across, others).items()):
        x = sorted(points)
        means, spreads = [mean(points[p]) for p in x], [_spread(points[p]) for p in x]
        plot.errorbar(x, means, spreads, capsize=3, label=_named(others, [name]) or kind, **series(i))
    for style, (control, key) in zip((":", "-."), _MAGNITUDE_LINES.items(), strict=True):
        # One line for all combinations of settings that it does not tell apart.
        alike: dict[tuple[tuple[float, float], ...], list[_Combination]] = {}
        for name, points in _points(rows, key, across, others).items():
            alike.setdefault(tuple((x, mean(points[x])) for x in sorted(points)), []).append(name)
        values = [[frozenset(column) for column in zip(*names, strict=True)] for names in alike.values()]
        telling = [axis for axis, *of in zip(others, *values, strict=True) if len(set(of)) > 1]
        for i, (line, names) in enumerate(alike.items()):
            label = ", ".join(filter(None, (control, _named(others, names, only=telling))))
            marker = "x+1234"[i % 6]
            plot.plot(*zip(*line, strict=True), color=GRAY, linestyle=style, marker=marker, markersize=6, label=label)
    plot.set_xlabel(across.replace("_", " "))


def _points(
    rows: Sequence[Mapping[str, Any]], key: str, across: str, others: Sequence[str]
) -> dict[_Combination, dict[float, list[float]]]:
    """The figures of every combination of the `others`, over the setting `across`."""
    found: dict[_Combination, dict[float, list[float]]] = {}
    for row in rows:
        if row.get(key) is not None:
            name = tuple("default" if row.get(axis) is None else str(row[axis]) for axis in others)
            found.setdefault(name, {}).setdefault(float(row[across]), []).append(row[key])
    return found


def _named(axes: Sequence[str], combinations: Sequence[_Combination], *, only: Sequence[str] | None = None) -> str:
    values = zip(axes, zip(*combinations, strict=True), strict=True)
    return ", ".join(f"{axis} {'/'.join(dict.fromkeys(v))}" for axis, v in values if only is None or axis in only)


def _draw_cells(plot: Axes, rows: Sequence[Mapping[str, Any]], kind: str) -> None:
    cells: dict[str, list[float]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row[_FOUND])
    x = range(len(cells))
    means, spreads = [mean(values) for values in cells.values()], [_spread(values) for values in cells.values()]
    plot.errorbar(x, means, spreads, linestyle="none", capsize=3, label=kind, **series(0))
    plot.set_xticks(x, list(cells), rotation=30, ha="right", fontsize=8)


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _is_number(value: object) -> bool:
    try:
        float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)
