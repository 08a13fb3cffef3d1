"""One search in one picture: where the weights went, and how the search got there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timm_jackpot.errors import ConfigError
from timm_jackpot.plots.style import BLUE, COLORS, GRAY, ORANGE, finish, new_figure, to_png
from timm_jackpot.training import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

SEARCH_PICTURES: Mapping[str, str] = {
    "plots/search.png": "Sparsity of each layer, and how the search converged",
    "plots/mask.png": "The mask of the largest layer, and the magnitudes of the weights that it keeps and removes",
}
_ROW, _HEIGHT = 0.14, (4.6, 10.0)  # inches: a row of the bars; the least and the greatest height of the picture
_READABLE = 0.11  # inches: lower rows have no room for a name


def search_figure(record: Record) -> bytes:
    """Sparsity of each layer beside accuracy, sparsity and loss over the steps, as a PNG.

    Raises:
        ConfigError: if matplotlib is not installed, or the record holds no finished search.
    """
    layers = record.last("layers")
    if not layers:
        raise ConfigError("the record holds no finished search: there is nothing to draw")
    stages = _stages(layers["names"])
    rows = len(layers["names"]) + sum(len(names) > 1 for names in stages.values())
    trained = any(record.of("step"))
    figure = new_figure(11 if trained else 6, min(max(0.9 + _ROW * rows, _HEIGHT[0]), _HEIGHT[1]))
    figure.suptitle(_title(record.last("result")), fontsize=11)
    if trained:
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.1))[0]
        _draw_steps(right, record)
    else:
        left = figure
    figures = {name: (kept, total) for name, kept, total in zip(*(layers[k] for k in _COLUMNS), strict=True)}
    _draw_layers(left.subplots(), stages, figures, names=(figure.get_figheight() - 0.9) / rows >= _READABLE)
    return to_png(figure)


_COLUMNS = ("names", "kept", "total")


def _title(result: dict[str, Any]) -> str:
    if not result:
        return ""
    data = "an image folder" if result["dataset"] == "folder" else result["dataset"]
    top1 = f"top-1 {result['jackpot_top1']:.1f} % on {result['test_images']:,} test images"
    return f"{result['model']} on {data}\nsparsity {100 * result['sparsity']:.1f} %, {top1}"


def _stages(names: Sequence[str]) -> dict[str, list[str]]:
    """The layers by stage: the shortest part of a name that ends in a digit ("layer1", "stages.0"), or all but its
    last word."""
    stages: dict[str, list[str]] = {}
    for name in names:
        parts = name.removesuffix(".weight").split(".")[:-1]
        ends = (i + 1 for i, part in enumerate(parts) if re.search(r"\d$", part))
        stages.setdefault(".".join(parts[: next(ends, None)]) or name, []).append(name)
    return stages


def _draw_layers(axes: Axes, stages: dict[str, list[str]], figures: dict[str, tuple[int, int]], *, names: bool) -> None:
    """One bar for each layer, below the heading of its stage; a stage of one layer has no heading."""
    ticks: list[tuple[int, str]] = []
    headings, row = set[int](), 0
    for stage, layers in stages.items():
        if len(layers) > 1:
            headings.add(len(ticks))
            ticks.append((row, stage))
            row += 1
        for layer in layers:
            kept, total = figures[layer]
            axes.barh(row, 100 * (1 - kept / total), color=BLUE, height=0.8)
            if names:
                name = layer.removesuffix(".weight")
                ticks.append((row, name.removeprefix(f"{stage}.") if len(layers) > 1 else name))
                axes.annotate(f"{kept:,}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=7)
            row += 1
    kept, total = (sum(column) for column in zip(*figures.values(), strict=True))
    whole = 100 * (1 - kept / total)
    axes.axvline(whole, color=ORANGE, linewidth=1.2, linestyle="--", label=f"all layers: {whole:.1f} %")
    axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=7)
    for i in headings:
        axes.get_yticklabels()[i].set_fontweight("bold")
    axes.set_ylim(row - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("sparsity of the layer (%)" + ("; on the right: weights kept" if names else ""))
    finish(axes, legend="above")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.tick_params(axis="y", length=0)


def _draw_steps(figure: SubFigure, record: Record) -> None:
    steps, result = list(record.of("step")), record.last("result")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    x = [event["step"] for event in steps]
    _draw_accuracy(top, list(record.of("validation")), result, end=result.get("steps") or x[-1])
    middle.plot(x, [100 * event["sparsity"] for event in steps], color=GRAY)
    middle.set_ylim(0, 105)
    middle.set_ylabel("sparsity (%)")
    bottom.plot(x, [event["loss"] for event in steps], color=ORANGE, linewidth=1)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("loss")
    bottom.set_xlabel("step")
    for axes in (middle, bottom):
        finish(axes, legend=None)
    figure.align_ylabels()


def _draw_accuracy(axes: Axes, validation: list[dict[str, Any]], result: dict[str, Any], end: int) -> None:
    if validation:
        points = [[event[key] for event in validation] for key in ("step", "top1")]
        label = f"search, held-out images (n = {validation[-1]['n']:,})"
        axes.plot(*points, color=BLUE, marker="o", markersize=5, label=label)
    if result.get("jackpot_top1") is not None:
        place = {"clip_on": False, "zorder": 3, "linestyle": "none"}
        axes.plot(end, result["jackpot_top1"], color=ORANGE, marker="D", label="jackpot (test)", **place)
    again = result.get("magnitude_recalibrated_top1")
    magnitude = "magnitude" if again is None else "magnitude, statistics re-estimated"
    lines = {
        "dense": (result.get("dense_top1"), GRAY, "--"),
        magnitude: (result.get("magnitude_top1") if again is None else again, COLORS[2], ":"),
    }
    for name, (top1, color, style) in lines.items():
        if top1 is not None:
            axes.axhline(top1, color=color, linewidth=1.5, linestyle=style, label=f"{name} (test)")
    axes.set_ylabel("top-1 (%)")
    if axes.get_legend_handles_labels()[0]:
        finish(axes, legend="above", columns=2)
