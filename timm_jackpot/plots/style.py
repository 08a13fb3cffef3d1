"""What all pictures share: colors, a white background, frames, PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from timm_jackpot.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: safe for every kind of color vision, on white and in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE, GRAY = COLORS[0], COLORS[1], "#767676"
_MARKERS = "osD^vP"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches at 110 dpi. Its background is white and opaque: legible on light and dark pages.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")


def to_png(figure: Figure) -> bytes:
    """The picture with a margin; the same figure gives the same bytes, as they hold neither time nor version."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", pad_inches=0.15)
    Image.open(drawn).convert("RGB").quantize(256).save(small, format="png", optimize=True)  # a third of the bytes
    return small.getvalue()


def series(number: int) -> dict[str, Any]:
    """Color and marker of one of several lines."""
    return {"color": COLORS[number % len(COLORS)], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 5}


def finish(axes: Axes, *, legend: str | None = "best", columns: int = 1) -> None:
    """Faint lines, no box, and a legend: "above" the axes, or where matplotlib calls it so."""
    places = {"above": {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}}
    if legend is not None:
        axes.legend(**places.get(legend, {"loc": legend}), frameon=False, fontsize=8, ncols=columns)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def name_layers(axes: Axes, names: Sequence[str], *, most: int = 24) -> None:
    """The layers below the axes, from input to output; more than `most` have no room for their names."""
    if len(names) > most:
        axes.set_xlabel("layer, from input to output")
        return
    texts = [name.removesuffix(".weight") for name in names]
    axes.set_xticks(range(len(names)), texts, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)


def name_rows(axes: Axes, names: Sequence[str], figures: Sequence[str]) -> None:
    """Names on the left, the first on top, and a figure for each on the right."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for row, text in enumerate(figures):
        axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
