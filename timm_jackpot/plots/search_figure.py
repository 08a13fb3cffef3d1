"""One search in one picture: where the weights went, and how the search got there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm_jackpot.errors import ConfigError
from timm_jackpot.plots.style import BLUE, GRAY, ORANGE, finish, name_layers, new_figure, to_png
from timm_jackpot.training import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def search_figure(record: Record) -> bytes:
    """Layer-wise sparsity beside loss, sparsity and held-out accuracy over the steps, as a PNG.

    Raises:
        ConfigError: if matplotlib is not installed, or the record holds no finished search.
    """
    layers = next(record.of("layers"), None)
    if layers is None:
        raise ConfigError("the record holds no finished search: there is nothing to draw")
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    _draw_layers(left, layers)
    _draw_convergence(right, record)
    return to_png(figure)


def _draw_layers(axes: Axes, layers: dict[str, Any]) -> None:
    sparsity = [100 * (1 - kept / total) for kept, total in zip(layers["kept"], layers["total"], strict=True)]
    mean = 100 * (1 - sum(layers["kept"]) / sum(layers["total"]))
    axes.bar(range(len(sparsity)), sparsity, color=BLUE, width=0.8)
    axes.axhline(mean, color=GRAY, linewidth=1, linestyle="--", label=f"all maskable weights: {mean:.1f} %")
    name_layers(axes, layers["names"])
    axes.set_ylabel("sparsity of the layer (%)")
    _in_per_cent(axes)


def _draw_convergence(axes: Axes, record: Record) -> None:
    steps = list(record.of("step"))
    validation = list(record.of("validation"))
    x = [event["step"] for event in steps]
    axes.plot(x, [100 * event["sparsity"] for event in steps], color=GRAY, linestyle="--", label="sparsity (%)")
    if validation:
        points = [[event[key] for event in validation] for key in ("step", "top1")]
        label = f"top-1 on held-out images (%), n = {validation[-1]['n']}"
        axes.plot(*points, color=BLUE, marker="o", label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("per cent")
    _in_per_cent(axes)
    if not steps:  # a one-shot mask: nothing was trained
        return
    losses = axes.twinx()
    losses.plot(x, [event["loss"] for event in steps], color=ORANGE, linewidth=1)
    losses.set_ylabel("training loss", color=ORANGE)
    losses.set_ylim(0, 2 * max(event["loss"] for event in steps))  # below the accuracy, not across it
    losses.spines[["top"]].set_visible(False)


def _in_per_cent(axes: Axes) -> None:
    axes.set_ylim(0, 125)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    finish(axes, legend="upper left", columns=2)
