"""Published figures stand beside ours, each with its drop from dense, and are never settings of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.sweeps import SweepConfig, plan_grid
from timm_jackpot.experiments.sweeps.published import published_figures, published_rows, published_table

RECIPE = """
dataset: digits
steps: 1
seeds: [0, 1]
grid: {sparsity: ["0.9", "0.95"], preset: [paper, default]}
published:
  source: "a paper, Table 1"
  rows:
    - {method: LT, cell: {sparsity: "0.9", epochs: 160}, top1: 91.5, dense: 94}
    - {cell: {sparsity: 0.9, preset: paper}, top1: 93.71, std: 0.08, dense: 94.62}
    - {cell: {sparsity: 0.95}, top1: 80, source: another}
"""


def written(tmp_path: Path, recipe: str = RECIPE) -> str:
    (tmp_path / "r.yaml").write_text(recipe)
    return str(tmp_path / "r.yaml")


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    cells, figures = plan_grid(SweepConfig(sweep=recipe, output="o")), published_figures(recipe)
    rows = [
        {"cell": cell.name, "jackpot_top1": 80.0 + i + seed, "dense_top1": 90.0}
        for i, cell in enumerate(cells)
        for seed in cell.searches
    ]
    lines = published_table(figures, cells, rows).strip().splitlines()[-3:]
    assert lines == [
        "| LT | sparsity 0.9, epochs 160 | not run here | – | 91.50 | -2.50 | a paper, Table 1 |",
        "| the paper's own | sparsity 0.9, preset paper "
        "| 80.50 ± 0.71 (2) | -9.50 | 93.71 ± 0.08 | -0.91 | a paper, Table 1 |",
        "| the paper's own | sparsity 0.95 | not run here | – | 80.00 | – | another |",
    ]
    assert [row["published_top1"] for row in published_rows(figures)] == [91.5, 93.71, 80]
    assert published_rows(figures)[0]["published_method"] == "LT"


def test_a_ticket_stands_beside_the_method_that_it_is_of(tmp_path: Path) -> None:
    recipe = (
        RECIPE[: RECIPE.index("grid")]
        + "method: lottery_ticket\ngrid: {sparsity: [0.8, 0.9]}\npublished: {source: x, rows: ["
    )
    recipe = written(tmp_path, recipe + "{method: LT, cell: {method: lottery_ticket, sparsity: 0.9}, top1: 91.5}]}")
    cells = plan_grid(SweepConfig(sweep=recipe, output="o"))
    rows = [{"cell": cell.name, "top1": 80.0 + i} for i, cell in enumerate(cells)]
    line = published_table(published_figures(recipe), cells, rows).strip().splitlines()[-1]
    assert line == "| LT | method lottery_ticket, sparsity 0.9 | 81.00 (1) | – | 91.50 | – | x |"


def test_nothing_published_adds_nothing(tmp_path: Path) -> None:
    recipe = written(tmp_path, RECIPE[: RECIPE.index("published")])
    assert published_figures(recipe) == []
    assert published_table([], plan_grid(SweepConfig(sweep=recipe, output="o")), []) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("{sparsity: 0.95}", "{sparsty: 0.95}"), "published names the unknown setting sparsty"),
        (("rows:", "row:"), "published must have a source, and rows"),
        (("top1: 91.5", "top1: 191.5"), "published is not valid, .*top1"),
        (("std: 0.08", "note: x"), "published is not valid, .*note"),
        (('  source: "a paper, Table 1"\n', ""), "published is not valid, .*source"),
        (("method: LT", "methods: LT"), "published is not valid, .*methods"),
        (("rows:\n    - {method", "rows:\n    - LT\n    - {method"), "published must have a source, and rows"),
    ],
)
def test_malformed_figures_are_refused(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    assert change[0] in RECIPE
    with pytest.raises(ConfigError, match=told):
        published_figures(written(tmp_path, RECIPE.replace(*change)))


@pytest.mark.parametrize("name", ["table1_cifar10", "table2_cifar100", "table3_imagenet", "table4_epochs"])
def test_every_published_figure_of_the_search_has_one_cell(name: str) -> None:
    figures, cells = published_figures(name), plan_grid(SweepConfig(sweep=name, output="o"))
    ours = [figure for figure in figures if figure.method is None]
    rows = [{"cell": cell.name, "jackpot_top1": 90.0, "dense_top1": 94.0} for cell in cells]
    assert len(ours) in (4, 8, 9)
    assert published_table(ours, cells, rows).count("| 90.00 (1) | -4.00 |") == len(ours)
