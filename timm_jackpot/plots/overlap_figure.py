"""Where masks agree: overlap layer by layer, beside the overlap by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm_jackpot.plots.style import GRAY, finish, name_layers, new_figure, series, to_png

_SPREAD = 0.6  # of the room of a layer that its stems take
_BAR: dict[str, Any] = {"marker": "_", "markersize": 8, "markeredgewidth": 1.8, "linestyle": "none"}


def overlap_figure(name: str, others: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Overlap of the mask `name` with each of `others`, as a PNG.

    A stem runs from a bar (overlap by chance) to a marker (measured overlap).

    Args:
        others: for each other mask, (overlap, chance) as fractions by layer; all over the same layers.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    layers = list(next(iter(others.values())))
    figure = new_figure(min(10.0, max(6.0, 2 + 0.16 * len(layers) * (len(others) + 1.5))), 4.6)
    from matplotlib.lines import Line2D

    plot = figure.subplots()
    for i, (other, by_layer) in enumerate(others.items()):
        style = series(i)
        x = [place + _SPREAD * ((i + 0.5) / len(others) - 0.5) for place in range(len(layers))]
        overlap, chance = ([100 * by_layer[layer][k] for layer in layers] for k in (0, 1))
        plot.vlines(x, chance, overlap, color=style["color"], linewidth=1.2)
        plot.plot(x, chance, color=style["color"], **_BAR)
        plot.plot(x, overlap, linestyle="none", label=other, **style)
    name_layers(plot, layers)
    plot.set_ylabel("overlap (% of the layer)")
    finish(plot, legend=None)
    handles, _ = plot.get_legend_handles_labels()
    bar = Line2D([], [], color=GRAY, label="by chance", **_BAR)
    legend = figure.legend(
        handles=[*handles, bar], loc="outside upper left", frameon=False, fontsize=8, ncols=min(4, len(handles) + 1)
    )
    legend.set_title(f"overlap of {name} with")
    legend.get_title().set_fontsize(9)
    legend.set_alignment("left")
    return to_png(figure)
