"""Masks against targets in one picture: a heat map with its numbers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from timm_jackpot.plots.style import BLUE, ORANGE, new_figure, to_png

_ROOM = 0.06  # of a column's range, above and below, so that the extremes are not white and full blue


def transfer_figure(cells: Sequence[Mapping[str, Any]]) -> bytes:
    """Top-1 of every mask on every target, as a PNG.

    Colors run over each column by itself, from its lowest to its highest figure: targets differ in difficulty. The
    target's own mask is framed; a line parts the masks that were searched from their controls.

    Args:
        cells: row, kind ("source" or "control"), target, own, seed, top1, test_images.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    top1: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        top1.setdefault((cell["row"], cell["target"]), []).append(cell["top1"])
    kinds = {cell["row"]: cell["kind"] for cell in cells}
    rows = sorted(kinds, key=lambda row: kinds[row] != "source")
    images = {cell["target"]: cell["test_images"] for cell in cells}
    own = {(cell["row"], cell["target"]) for cell in cells if cell["own"]}
    seeds = len({cell["seed"] for cell in cells})

    figure = new_figure(2.6 + 1.5 * len(images), 1.5 + 0.42 * len(rows))
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    plot = figure.subplots()
    blues = LinearSegmentedColormap.from_list("blues", ["#F4F9FD", BLUE])
    frame = {"color": ORANGE, "linewidth": 2.2}
    for x, target in enumerate(images):
        column = [mean(top1[row, target]) for row in rows if (row, target) in top1]
        low, span = min(column), (max(column) - min(column)) or 1.0
        for y, row in enumerate(rows):
            values = top1.get((row, target))
            if values is None:
                plot.text(x, y, "–", ha="center", va="center")
                continue
            shade = _ROOM + (1 - 2 * _ROOM) * (mean(values) - low) / span
            place = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=blues(shade), edgecolor="white", linewidth=1.5)
            plot.add_patch(place)
            text = f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
            plot.text(x, y, text, ha="center", va="center", color="white" if shade > 0.6 else "black")
            if (row, target) in own:
                plot.add_patch(Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fill=False, zorder=3, **frame))
    plot.axhline(list(kinds.values()).count("source") - 0.5, color="black", linewidth=1.2)
    plot.set_xlim(-0.5, len(images) - 0.5)
    plot.set_ylim(len(rows) - 0.5, -0.5)
    plot.set_xticks(range(len(images)), [f"{name}\n{n} test images" for name, n in images.items()], fontsize=9)
    plot.set_yticks(range(len(rows)), rows, fontsize=9)
    plot.xaxis.tick_top()
    plot.tick_params(length=0)
    plot.spines[:].set_visible(False)
    spread = f"mean ± std over {seeds} seeds" if seeds > 1 else "one seed"
    plot.set_title(f"top-1 (%) on the target, {spread}", fontsize=10)
    framed = Line2D([], [], label="the target's own mask", **frame)
    note = Line2D([], [], linestyle="none", label="darker: better, within its column")
    figure.legend(handles=[framed, note], loc="outside lower left", frameon=False, fontsize=8, ncols=2)
    return to_png(figure)
