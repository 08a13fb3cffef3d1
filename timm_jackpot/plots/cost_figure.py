"""Accuracy over the cost of training, and over sparsity, for methods side by side."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING

from timm_jackpot.plots.numbered import Rows, annotate, family_look, name_numbers, numbered_panels, numbers_of
from timm_jackpot.plots.style import finish, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cost_figure(rows: Rows) -> bytes | None:
    """One panel per task: test top-1 (mean, one standard deviation) over the FLOPs of all training, in dense epochs.

    Color and marker show the family of a method, the number its name.

    Args:
        rows: task, rival, family, top1 and dense_epochs; one per seed.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    rows = [row for row in rows if "dense_epochs" in row]  # not in rows of an earlier version
    if not rows:
        return None
    figure = numbered_panels(rows, _dense_epochs, lambda points: family_look(points[0]["family"]))
    for panel in figure.axes:
        panel.set_xlabel("FLOPs of training, in epochs of dense training", fontsize=8)
    _name_by_family(figure, rows)
    return to_png(figure)


def sparsity_figure(rows: Rows) -> bytes | None:
    """Test top-1 over sparsity, a line for each method. None if the tasks do not differ in sparsity.

    Args:
        rows: task, rival, family, top1 and sparsity; one per seed.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    rows = [row for row in rows if "family" in row]  # not in rows of an earlier version
    if len({row["task"] for row in rows}) < 2:
        return None
    figure = new_figure(6.6, 4.4)
    panel = figure.subplots()
    ends: list[tuple[int, float, float]] = []
    for rival, number in numbers_of(rows).items():
        own = [row for row in rows if row["rival"] == rival]
        by_task = [[row for row in own if row["task"] == task] for task in dict.fromkeys(row["task"] for row in own)]
        points = sorted((100 * mean(r["sparsity"] for r in some), mean(r["top1"] for r in some)) for some in by_task)
        panel.plot(*zip(*points, strict=True), lw=1, ms=4, **family_look(own[0]["family"]))
        ends.append((number, *points[-1]))
    annotate(panel, ends)
    panel.set_xlabel("sparsity (%)", fontsize=8)
    panel.set_ylabel("top-1 (%)", fontsize=8)
    finish(panel, legend=None)
    _name_by_family(figure, rows)
    return to_png(figure)


def _name_by_family(figure: Figure, rows: Rows) -> None:
    families = {row["rival"]: row["family"] for row in rows}
    name_numbers(figure, rows, lambda rival: family_look(families[rival])["color"])


def _dense_epochs(rows: Rows) -> float:
    return mean(row["dense_epochs"] for row in rows)
