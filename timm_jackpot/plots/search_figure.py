"""One search in one picture: where the weights went, and how the search got there."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from timm_jackpot.errors import ConfigError
from timm_jackpot.training import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's colours: told apart with every kind of colour vision, on white and in print.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#767676"


def search_figure(record: Record) -> bytes:
    """Layer-wise sparsity beside loss, sparsity and held-out accuracy over the steps, as a PNG.

    The background is white, so that the picture reads on a dark page too.

    Raises:
        ConfigError: if matplotlib is not installed, or the record holds no finished search.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'timm-jackpot[plots]'") from error
    layers = next(record.of("layers"), None)
    if layers is None:
        raise ConfigError("the record holds no finished search: there is nothing to draw")
    figure = Figure(figsize=(11, 4.2), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_layers(left, layers)
    _draw_convergence(right, record)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_layers(axes: Axes, layers: dict[str, Any]) -> None:
    sparsity = [100 * (1 - kept / total) for kept, total in zip(layers["kept"], layers["total"], strict=True)]
    mean = 100 * (1 - sum(layers["kept"]) / sum(layers["total"]))
    axes.bar(range(len(sparsity)), sparsity, color=_BLUE, width=0.8)
    axes.axhline(mean, color=_GREY, linewidth=1, linestyle="--", label=f"all maskable weights: {mean:.1f} %")
    if len(sparsity) <= 24:
        names = [name.removesuffix(".weight") for name in layers["names"]]
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    else:
        axes.set_xlabel("layer, from input to output")
    axes.set_ylim(0, 125)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("sparsity of the layer (%)")
    _finish(axes)


def _draw_convergence(axes: Axes, record: Record) -> None:
    steps = list(record.of("step"))
    validation = list(record.of("validation"))
    x = [event["step"] for event in steps]
    axes.plot(x, [100 * event["sparsity"] for event in steps], color=_GREY, linestyle="--", label="sparsity (%)")
    if validation:
        axes.plot(
            [event["step"] for event in validation],
            [event["top1"] for event in validation],
            color=_BLUE,
            marker="o",
            label=f"top-1 on held-out images (%), n = {validation[-1]['n']}",
        )
    axes.set_ylim(0, 125)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel("step")
    axes.set_ylabel("per cent")
    _finish(axes)
    if not steps:  # a one-shot mask: nothing was trained
        return
    losses = axes.twinx()
    losses.plot(x, [event["loss"] for event in steps], color=_ORANGE, linewidth=1)
    losses.set_ylabel("training loss", color=_ORANGE)
    losses.set_ylim(0, 2 * max(event["loss"] for event in steps))  # below the accuracy, not across it
    losses.spines[["top"]].set_visible(False)


def _finish(axes: Axes) -> None:
    axes.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)
    axes.spines[["top"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
