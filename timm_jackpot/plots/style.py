"""What all pictures share: colours, a white ground, PNG bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

from timm_jackpot.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours: told apart with every kind of colour vision, on white and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE, GREY = COLOURS[0], COLOURS[1], "#767676"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches at 110 dpi. Its ground is white, so that it reads on a dark page too.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'timm-jackpot[plots]'") from error
    return Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")


def to_png(figure: Figure) -> bytes:
    """The same figure gives the same bytes: nothing in them tells of time or version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def finish(axes: Axes, *, legend: Literal["best", "upper left"] = "best", columns: int = 1) -> None:
    """Legend, faint lines, no box."""
    axes.legend(loc=legend, frameon=False, fontsize=8, ncols=columns)
    axes.spines[["top"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
