"""Accuracy over bytes per task: what an adapter gives for what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from timm_jackpot.plots.style import BLUE, ORANGE, finish, new_figure, to_png


def adapter_figure(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """One panel per task: test top-1 (mean, with one standard deviation) over bytes per task, on a log scale.

    Masks are filled circles, everything else open squares, each with a number that the legend explains.

    Args:
        rows: task, rival, top1, mask_bytes, and the bytes of the other kinds; one per seed.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    if not rows:
        return None
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    numbers = {rival: i for i, rival in enumerate(dict.fromkeys(row["rival"] for row in rows), 1)}
    figure = new_figure(1.8 + 4.4 * min(2, len(tasks)), 3.9 * ((len(tasks) + 1) // 2))
    panels = figure.subplots((len(tasks) + 1) // 2, min(2, len(tasks)), squeeze=False).flatten()
    for panel, task in zip(panels, tasks, strict=False):
        of_task = [row for row in rows if row["task"] == task]
        for rival in dict.fromkeys(row["rival"] for row in of_task):
            points = [row for row in of_task if row["rival"] == rival]
            size = 1 + mean(sum(value for key, value in row.items() if key.endswith("_bytes")) for row in points)
            top1 = [row["top1"] for row in points]
            masked = points[0]["mask_bytes"] > 0
            look = {"color": BLUE, "marker": "o"} if masked else {"color": ORANGE, "marker": "s", "mfc": "white"}
            panel.errorbar(
                size / 1000, mean(top1), yerr=stdev(top1) if len(top1) > 1 else None, capsize=2, ms=5, lw=1, **look
            )
            place = (size / 1000, mean(top1))
            panel.annotate(str(numbers[rival]), place, xytext=(4, 4), textcoords="offset points", fontsize=7)
        panel.set_xscale("log")
        panel.set_title(f"{task}, {of_task[0]['test_images']} test images", fontsize=10, loc="left")
        panel.set_xlabel("kB per task (log scale)", fontsize=8)
        panel.set_ylabel("top-1 (%)", fontsize=8)
        panel.margins(x=0.15, y=0.12)
        finish(panel, legend=None)
    for empty in panels[len(tasks) :]:
        empty.set_visible(False)
    from matplotlib.lines import Line2D

    names = [Line2D([], [], linestyle="none", label=f"{number}  {rival}") for rival, number in numbers.items()]
    figure.legend(handles=names, loc="outside right upper", frameon=False, fontsize=8, handlelength=0, handletextpad=0)
    return to_png(figure)
