"""An audit in three pictures: jackpot and controls, overlaps beside chance, density of the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from timm_jackpot.evidence import FINE_TUNED, AuditReport
from timm_jackpot.evidence.section import title_of
from timm_jackpot.plots.style import BLUE, GRAY, ORANGE, finish, name_layers, name_rows, new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACCURACY, _OVERLAP, _LAYERS = "plots/audit_accuracy.png", "plots/audit_overlap.png", "plots/audit_layers.png"
AUDIT_PICTURES: Mapping[str, str] = {
    _ACCURACY: "Accuracy of the jackpot and its controls, with 95 % intervals",
    _OVERLAP: "Overlap of the jackpot's mask with other masks, beside chance",
    _LAYERS: "Density of each layer",
}
_WIDTH, _ROW, _MARGIN = 7.3, 0.29, 0.9  # inches


def audit_figures(report: AuditReport) -> dict[str, bytes]:
    """The pictures of an audit as PNGs, by file name; drawn from the report alone.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    drawn = {_ACCURACY: _accuracy, _OVERLAP: _overlap, _LAYERS: _layers}
    return {name: to_png(draw(report)) for name, draw in drawn.items()}


def _accuracy(report: AuditReport) -> Figure:
    by_accuracy = sorted(report.controls, key=lambda name: -report.models[name].top1.value)
    top1 = {
        name: report.models[name].top1
        for name in ("jackpot", "jackpot_recalibrated", "second_search", *FINE_TUNED, *by_accuracy)
        if name in report.models
    }
    figure = new_figure(_WIDTH, _MARGIN + _ROW * len(top1))
    axes = figure.subplots()
    dense = report.models["dense"].top1.value
    axes.axvline(dense, color=GRAY, linestyle="--", linewidth=1, zorder=1)
    at = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
    axes.annotate(f"dense {dense:.2f}", (dense, 1), **at, ha="center", fontsize=8, color=GRAY)
    for row, (name, found) in enumerate(top1.items()):
        color, marker = (BLUE, "o") if name in report.controls else (ORANGE, "D")
        if name in FINE_TUNED:
            color, marker = GRAY, "s"
        axes.plot([found.low, found.high], [row, row], color=color, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
        axes.plot(found.value, row, color=color, marker=marker, markersize=6, linestyle="none")
    finish(axes, legend=None)
    name_rows(axes, [title_of(name) for name in top1], [f"{found.value:.2f}" for found in top1.values()])
    axes.set_xlim(0, 101)
    axes.set_xlabel(f"top-1 on the test split (%), n = {report.data.test_images}; bars: 95 % intervals")
    return figure


def _overlap(report: AuditReport) -> Figure:
    found = {f"{name} mask": (100 * mask.overlap, 100 * mask.chance) for name, mask in report.overlaps.items()}
    again = report.second_search
    found["search from another seed"] = (100 * again.overlap, 100 * again.chance)
    found = dict(sorted(found.items(), key=lambda pair: -pair[1][0]))
    overlaps, chances, rows = (
        [pair[0] for pair in found.values()],
        [pair[1] for pair in found.values()],
        range(len(found)),
    )
    figure = new_figure(_WIDTH, _MARGIN + 0.3 + _ROW * len(found))
    axes = figure.subplots()
    axes.hlines(rows, chances, overlaps, color=BLUE, linewidth=2, alpha=0.4, zorder=1)
    axes.plot(overlaps, rows, color=BLUE, marker="o", markersize=6, linestyle="none", zorder=3, label="overlap")
    bar = {"marker": "|", "markersize": 14, "markeredgewidth": 2, "linestyle": "none"}
    axes.plot(chances, rows, color=GRAY, label="by chance", **bar)
    finish(axes, legend="above", columns=2)
    name_rows(axes, list(found), [f"{overlap:.1f}" for overlap in overlaps])
    axes.set_xlim(max(0, min(*overlaps, *chances) - 3), 100.5)
    axes.set_xlabel("weights on which the two masks agree (%); all have the same layer counts")
    return figure


def _layers(report: AuditReport) -> Figure:
    density = [100 * layer.kept / layer.total for layer in report.layers]
    whole = 100 * (1 - report.sparsity)
    figure = new_figure(_WIDTH, 3.6)
    axes = figure.subplots()
    axes.bar(range(len(density)), density, color=BLUE, width=0.8)
    axes.axhline(whole, color=ORANGE, linestyle="--", linewidth=1.5, label=f"all maskable weights: {whole:.1f} %")
    finish(axes, legend="above")
    name_layers(axes, [layer.name for layer in report.layers], most=40)
    axes.set_xlim(-0.6, len(density) - 0.4)
    axes.set_ylabel("weights kept of the layer (%)")
    return figure
