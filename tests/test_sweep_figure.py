"""The sweep's picture: its lines are the figures, and no two that differ are averaged."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from timm_jackpot.experiments.sweeps import SweepConfig, run_sweep
from timm_jackpot.plots import sweep_figure

MAGNITUDE = {("erk", 0.5): 81.1, ("erk", 0.9): 61.1, ("global", 0.5): 54.1, ("global", 0.9): 34.1}


def row(seed: int = 0, *, magnitude: float, **axes: Any) -> dict[str, Any]:
    figures = {"dense_top1": 91.6, "magnitude_top1": magnitude, "magnitude_recalibrated_top1": None}
    return {"cell": str(axes), **axes, "seed": seed, **figures, "jackpot_top1": 90.0 + seed}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(import_module("timm_jackpot.plots.sweep_figure"), "to_png", lambda f: figures.append(f) or b"")
    return figures


def lines(figure: Figure) -> dict[str, list[float]]:
    """The heights of every line that the legend names, but for the jackpots' and the dense base's."""
    (plot,) = figure.axes
    assert isinstance(plot, Axes)
    named = {str(line.get_label()): line for line in plot.get_lines()}
    return {name: list(line.get_ydata()) for name, line in named.items() if "magnitude" in name}  # pyright: ignore


def test_magnitude_has_a_line_for_each_allocation_and_no_more(drawn: list[Figure]) -> None:
    rows = [
        row(seed, sparsity=sparsity, allocation=allocation, distill_weight=weight, magnitude=top1)
        for (allocation, sparsity), top1 in MAGNITUDE.items()
        for weight in (0.0, 0.7)
        for seed in (0, 1)
    ]
    sweep_figure(rows, ["sparsity", "allocation", "distill_weight"])
    assert lines(drawn[0]) == {
        "magnitude one-shot, allocation erk": [81.1, 61.1],
        "magnitude one-shot, allocation global": [54.1, 34.1],
    }


def test_what_magnitude_does_not_depend_on_is_not_named(drawn: list[Figure]) -> None:
    rows = [row(sparsity=s, preset=preset, magnitude=81.1) for s in (0.5, 0.9) for preset in ("paper", "default")]
    sweep_figure(rows, ["sparsity", "preset"])
    assert lines(drawn[0]) == {"magnitude one-shot": [81.1, 81.1]}


def test_settings_that_change_together_are_told_apart_too(drawn: list[Figure]) -> None:
    cells = [("a", True, 81.1), ("b", False, 54.1)]
    rows = [row(sparsity=s, model=m, pretrained=p, magnitude=top1) for s in (0.5, 0.9) for m, p, top1 in cells]
    sweep_figure(rows, ["sparsity", "model", "pretrained"])
    assert lines(drawn[0]) == {
        "magnitude one-shot, model a, pretrained True": [81.1, 81.1],
        "magnitude one-shot, model b, pretrained False": [54.1, 54.1],
    }


def test_a_setting_that_only_later_cells_name_tells_lines_apart(
    drawn: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm_jackpot.search.save.find_spec", lambda _: None)  # no pictures of single searches
    text = (
        'steps: 0\nbatch_size: 32\ncells: [{}, {allocation: uniform}]\ngrid: {sparsity: ["0.5", "0.8"]}\nseeds: [0]\n'
    )
    (tmp_path / "sweep.yaml").write_text(text)
    run_sweep(SweepConfig(sweep=str(tmp_path / "sweep.yaml"), output=str(tmp_path / "out")))
    names = {name for name in lines(drawn[0]) if "re-estimated" not in name}
    assert names == {"magnitude one-shot, allocation default", "magnitude one-shot, allocation uniform"}
