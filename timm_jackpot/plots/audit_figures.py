"""An audit in three pictures: jackpot and controls, overlaps beside chance, density of the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from timm_jackpot.evidence import AuditReport
from timm_jackpot.evidence.section import title_of
from timm_jackpot.plots.style import BLUE, GREY, ORANGE, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACCURACY, _OVERLAP, _LAYERS = "plots/audit_accuracy.png", "plots/audit_overlap.png", "plots/audit_layers.png"
AUDIT_PICTURES: Mapping[str, str] = {
    _ACCURACY: "Accuracy of the jackpot and its controls, with 95 % intervals",
    _OVERLAP: "Overlap of the jackpot's mask with other masks, beside chance",
    _LAYERS: "Density of each layer",
}
_WIDTH, _ROW, _MARGIN = 7.3, 0.29, 0.9  # inches
_NAMED_LAYERS = 40  # more have no room for their names


def audit_figures(report: AuditReport) -> dict[str, bytes]:
    """The pictures of an audit as PNGs, by file name; drawn from the report alone.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    return {_ACCURACY: _accuracy(report), _OVERLAP: _overlap(report), _LAYERS: _layers(report)}


def _accuracy(report: AuditReport) -> bytes:
    by_accuracy = sorted(report.controls, key=lambda name: -report.models[name].top1.value)
    names = ["jackpot", "jackpot_recalibrated", "second_search", *by_accuracy]
    figure = new_figure(_WIDTH, _MARGIN + _ROW * len(names))
    axes = figure.subplots()
    dense = report.models["dense"].top1.value
    axes.axvline(dense, color=GREY, linestyle="--", linewidth=1, zorder=1)
    axes.annotate(
        f"dense {dense:.2f}",
        (dense, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=GREY,
    )
    for row, name in enumerate(names):
        top1 = report.models[name].top1
        is_control = name in report.controls
        colour, marker = (BLUE, "o") if is_control else (ORANGE, "D")
        axes.plot([top1.low, top1.high], [row, row], color=colour, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
        axes.plot(top1.value, row, color=colour, marker=marker, markersize=6, linestyle="none")
        axes.annotate(f"{top1.value:.2f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    _rows(axes, [title_of(name) for name in names])
    axes.set_xlim(0, 101)
    axes.set_xlabel(f"top-1 on the test split (%), n = {report.data.test_images}; bars: 95 % intervals")
    return to_png(figure)


def _overlap(report: AuditReport) -> bytes:
    pairs = {f"{name} mask": (found.overlap, found.chance) for name, found in report.overlaps.items()}
    pairs["search from another seed"] = (report.second_search.overlap, report.second_search.chance)
    pairs = dict(sorted(pairs.items(), key=lambda pair: -pair[1][0]))
    figure = new_figure(_WIDTH, _MARGIN + 0.3 + _ROW * len(pairs))
    axes = figure.subplots()
    for row, (overlap, chance) in enumerate(pairs.values()):
        axes.plot([100 * chance, 100 * overlap], [row, row], color=BLUE, linewidth=2, alpha=0.4, zorder=1)
        axes.plot(100 * chance, row, color=GREY, marker="|", markersize=14, markeredgewidth=2, linestyle="none")
        axes.plot(100 * overlap, row, color=BLUE, marker="o", markersize=6, linestyle="none")
        axes.annotate(f"{100 * overlap:.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.plot([], [], color=BLUE, marker="o", markersize=6, linestyle="none", label="overlap")
    axes.plot([], [], color=GREY, marker="|", markersize=12, markeredgewidth=2, linestyle="none", label="by chance")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, ncols=2, borderaxespad=0.2)
    _rows(axes, list(pairs))
    lowest = min(100 * min(pair) for pair in pairs.values())
    axes.set_xlim(max(0, lowest - 3), 100.5)
    axes.set_xlabel("weights on which the two masks agree (%); all have the same layer counts")
    return to_png(figure)


def _layers(report: AuditReport) -> bytes:
    density = [100 * layer.kept / layer.total for layer in report.layers]
    figure = new_figure(_WIDTH, 3.6)
    axes = figure.subplots()
    axes.bar(range(len(density)), density, color=BLUE, width=0.8)
    whole = 100 * (1 - report.sparsity)
    axes.axhline(whole, color=ORANGE, linestyle="--", linewidth=1.5, label=f"all maskable weights: {whole:.1f} %")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8, borderaxespad=0.2)
    if len(density) <= _NAMED_LAYERS:
        names = [layer.name.removesuffix(".weight") for layer in report.layers]
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    else:
        axes.set_xlabel("layer, from input to output")
    axes.set_xlim(-0.6, len(density) - 0.4)
    axes.set_ylabel("weights kept of the layer (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    return to_png(figure)


def _rows(axes: Axes, names: list[str]) -> None:
    """Names down the side, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="both", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
