"""Panels of points with numbers, which a legend beside them explains: for more names than a panel has room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from timm_jackpot.plots.style import COLORS, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
_NEAR = 0.04, 0.03  # of a panel's width and height: numbers any nearer would cover each other
FAMILIES = ("mask search", "one-shot", "ticket", "sparse training", "reference")


def numbered_panels(
    rows: Rows, place: Callable[[Rows], float], look: Callable[[Rows], dict[str, Any]], *, xscale: str = "linear"
) -> Figure:
    """One panel per task: test top-1 (mean, with one standard deviation) of every rival.

    Args:
        rows: task, rival and top1, one per seed, and what the functions read.
        place: x of the rows of one rival.
        look: how its point is drawn.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    numbers = numbers_of(rows)
    figure = new_figure(1.8 + 4.4 * min(2, len(tasks)), 3.9 * ((len(tasks) + 1) // 2))
    panels = figure.subplots((len(tasks) + 1) // 2, min(2, len(tasks)), squeeze=False).flatten()
    for panel, task in zip(panels, tasks, strict=False):
        of_task = [row for row in rows if row["task"] == task]
        numbered: list[tuple[int, float, float]] = []
        for rival in dict.fromkeys(row["rival"] for row in of_task):
            points = [row for row in of_task if row["rival"] == rival]
            top1, x = [row["top1"] for row in points], place(points)
            spread = stdev(top1) if len(top1) > 1 else None
            panel.errorbar(x, mean(top1), yerr=spread, capsize=2, ms=5, lw=1, **look(points))
            numbered.append((numbers[rival], x, mean(top1)))
        panel.set_title(f"{task}, {of_task[0]['test_images']} test images", fontsize=10, loc="left")
        panel.set_ylabel("top-1 (%)", fontsize=8)
        panel.set_xscale(xscale)  # after the points: autoscaling warns if it comes first
        panel.margins(x=0.15, y=0.12)
        annotate(panel, numbered)
        finish(panel, legend=None)
    for empty in panels[len(tasks) :]:
        empty.remove()
    return figure


def annotate(panel: Axes, points: Sequence[tuple[int, float, float]]) -> None:
    """Write the numbers of points (number, x, y) beside them; points that almost coincide share a label."""
    panel.autoscale_view()
    to_panel = panel.transData + panel.transAxes.inverted()
    labels: list[tuple[float, float, list[int]]] = []
    for number, x, y in sorted(points):
        u, v = to_panel.transform((x, y))
        near = (numbers for left, low, numbers in labels if abs(u - left) < _NEAR[0] and abs(v - low) < _NEAR[1])
        if (numbers := next(near, None)) is None:
            labels.append((u, v, [number]))
        else:
            numbers.append(number)
    for u, v, numbers in labels:
        place = {"xycoords": "axes fraction", "xytext": (4, 4), "textcoords": "offset points"}
        panel.annotate(", ".join(map(str, numbers)), (u, v), fontsize=7, **place)


def numbers_of(rows: Rows) -> dict[str, int]:
    """The number of each rival, from 1 for the highest top-1, averaged over tasks."""
    by_cell: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        by_cell.setdefault(row["rival"], {}).setdefault(row["task"], []).append(row["top1"])
    top1 = {rival: mean(map(mean, by_task.values())) for rival, by_task in by_cell.items()}
    return {rival: i for i, rival in enumerate(sorted(top1, key=lambda rival: -top1[rival]), 1)}


def name_numbers(figure: Figure, rows: Rows, color: Callable[[str], str] = lambda rival: "black") -> None:
    """The legend of the numbers, on the right."""
    from matplotlib.lines import Line2D

    names = [Line2D([], [], linestyle="none", label=f"{number}  {rival}") for rival, number in numbers_of(rows).items()]
    legend = figure.legend(
        handles=names, loc="outside right upper", frameon=False, fontsize=8, handlelength=0, handletextpad=0
    )
    for text, rival in zip(legend.get_texts(), numbers_of(rows), strict=True):
        text.set_color(color(rival))


def family_look(family: str) -> dict[str, Any]:
    """Color and marker of a family of methods."""
    number = FAMILIES.index(family)
    return {"color": COLORS[number], "marker": "osD^v"[number], "mfc": "white" if number else COLORS[0]}
