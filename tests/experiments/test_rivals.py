"""Rivals on one task: tuned on held-out images, judged on the test split, resumed from results.json."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.experiments.rivals import RivalsConfig, compare_rivals, plan_rivals
from timm_jackpot.experiments.rivals.cost_table import cost_table
from timm_jackpot.plots import cost_figure, sparsity_figure

pytestmark = pytest.mark.usefixtures("few_digits")

RECIPE = """
dataset: digits
batch_size: 64
val_fraction: 0.5
steps: 6
seeds: [0, 1]
tasks: {a: {train_head: true, distill_weight: 0}}
tune_steps: 2
rivals:
  probe: {method: probe, tune: {lr: [1.0e-9, 0.5]}}
  half: {sparsity: 0.5}
  lora: {method: lora, rank: 2}
"""


def config(tmp_path: Path, recipe: str = RECIPE, **more: Any) -> RivalsConfig:
    (tmp_path / "r.yaml").write_text(recipe)
    return RivalsConfig(rivals=str(tmp_path / "r.yaml"), output=str(tmp_path / "out"), **more)


def test_rivals_are_tuned_judged_and_tabulated(tmp_path: Path) -> None:
    result = compare_rivals(config(tmp_path))
    assert [(row["rival"], row["seed"]) for row in result.rows] == [
        (rival, seed) for rival in ("probe", "half", "lora") for seed in (0, 1)
    ]
    probe, half, lora = result.rows[0], result.rows[2], result.rows[4]
    held = json.loads((tmp_path / "out" / "a" / "results.json").read_text())
    tuned = {key: entry["result"]["top1"] for key, entry in held.items() if key.startswith("tune")}
    assert probe["chosen"] == {
        "lr": 1e-9 if tuned['tune probe: {"lr": 1e-09}'] >= tuned['tune probe: {"lr": 0.5}'] else 0.5
    }
    assert probe["mask_bytes"] == probe["norm_statistics_bytes"] == probe["weights_bytes"] == 0
    assert probe["head_bytes"] == 4 * probe["trained_parameters"]
    assert half["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert half["mask_bytes"] > 0
    assert half["norm_statistics_bytes"] == lora["norm_statistics_bytes"] > 0
    assert lora["weights_bytes"] + lora["head_bytes"] == 4 * lora["trained_parameters"]
    assert lora["extra_flops"] > 0 == half["extra_flops"]
    assert (tmp_path / "out" / "table.csv").is_file()
    assert "| half |" in result.table

    again = compare_rivals(config(tmp_path))
    assert again.rows == result.rows  # nothing ran again: seconds and all
    with pytest.raises(ConfigError, match="steps 6, not 7: choose another --output"):
        compare_rivals(config(tmp_path, settings=("steps=7",)))


@pytest.mark.parametrize(
    ("recipe", "more", "told"),
    [
        ("tasks: {a: {}}\n", {}, "must have rivals, which map names"),
        (RECIPE, {"tasks": ("b",)}, "--tasks names the task b, which the recipe does not have: a"),
        (RECIPE, {"data_dir": ("b=x",)}, "--data-dir names the task b"),
        (RECIPE.replace("[1.0e-9, 0.5]", "0.5"), {}, "probe on a: tune must map settings to lists"),
        (RECIPE.replace("rank: 2", "rank: 0"), {}, "lora on a: --rank 0"),
        (RECIPE.replace("rank: 2", "ranks: 2"), {}, "lora on a: unknown setting ranks"),
        (RECIPE.replace("method: lora", "method: lara"), {}, "there is no method 'lara': did you mean lora"),
        (RECIPE.replace("rank: 2", "seed: 2"), {}, "lora on a sets seed, which all rivals of a task share"),
        (RECIPE.replace("rank: 2", "tune: {batch_size: [1, 8]}"), {}, "lora on a sets batch_size, which all rivals"),
        (RECIPE.replace("method: lora, rank: 2", "method: smallest"), {}, "smallest is a control of one jackpot"),
        (RECIPE.replace("sparsity: 0.5", "sparsity: auto"), {}, "half on a: a rival has a sparsity of its own"),
        (RECIPE.replace("batch_size", "batchsize"), {}, "the task a has the setting batchsize, which no rival knows"),
        (RECIPE, {"settings": ("stpes=1",)}, "the task a has the setting stpes"),
        (RECIPE + "table: costs\n", {}, "table must be one of adapters, cost, not costs"),
        (RECIPE.replace("rank: 2", "seeds: 2"), {}, "seeds must be a list of integers"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(tmp_path: Path, recipe: str, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan_rivals(config(tmp_path, recipe, **more))


@pytest.mark.slow
def test_a_run_that_diverges_costs_no_other_its_result(tmp_path: Path) -> None:
    recipe = RECIPE.replace("lora, rank: 2", "full_sgd, lr: 1000000")
    with pytest.raises(TrainingError, match="2 runs failed; the first was lora, seed 0"):
        compare_rivals(config(tmp_path, recipe))
    rows = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["probe", "probe", "half", "half"]


def test_each_task_may_have_its_own_values(tmp_path: Path) -> None:
    two = RECIPE.replace("tasks: {a: {", "tasks: {b: {}, a: {").replace("[1.0e-9, 0.5]", "{a: [1, 2], b: [3]}")
    plan = plan_rivals(config(tmp_path, two))
    tried = {task: [candidate["lr"] for candidate in rivals[0].candidates] for task, rivals in plan.tasks.items()}
    assert tried == {"a": [1, 2], "b": [3]}
    with pytest.raises(ConfigError, match="probe on b: tune must map settings to lists of values, or to one such list"):
        plan_rivals(config(tmp_path, two.replace(", b: [3]", "")))


def test_a_cost_table_says_what_training_took(tmp_path: Path) -> None:
    recipe = RECIPE.replace("train_head: true, distill_weight: 0", "sparsity: 0.5, val_fraction: 0")
    recipe = recipe[: recipe.index("  probe")].replace("tune_steps: 2", "table: cost")
    recipe += "  ours: {seeds: [3]}\n  pruned: {method: omp, from_base: true}\n"
    result = compare_rivals(config(tmp_path, recipe))
    assert [(row["rival"], row["seed"]) for row in result.rows] == [("ours", 3), ("pruned", 0), ("pruned", 1)]
    ours, pruned = result.rows[:2]
    steps = 320 // 64  # of an epoch
    assert ours["epochs"] == {"search": pytest.approx(6 / steps, abs=1e-3)}
    assert pruned["epochs"] == {"training": pytest.approx(6 / steps, abs=1e-3)}
    assert 0.3 * 6 / steps < pruned["dense_epochs"] < 6 / steps < ours["dense_epochs"] < 1.34 * 6 / steps
    assert f"| ours | mask search | {ours['top1']:.2f} (1) |" in result.table
    if find_spec("matplotlib"):
        assert (tmp_path / "out" / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out" / "sparsity.png").exists(), "one task, one sparsity"
    assert [rival.seeds for rival in plan_rivals(config(tmp_path, recipe, seeds=(4, 5))).tasks["a"]] == [(4, 5)] * 2


def test_the_best_come_first_and_sparsity_has_a_picture() -> None:
    def row(task: str, rival: str, top1: float, **more: Any) -> dict[str, Any]:
        figures = {"family": "ticket", "top5": 99.0, "sparsity": float(task) / 100, "epochs": {"training": 2.0}}
        figures |= {"dense_epochs": 1.5, "seconds": 9.0, "test_images": 10}
        return {"task": task, "rival": rival, "top1": top1, **figures, **more}

    fast = {"family": "mask search", "epochs": {"search": 1.0, "head": 0.5}}
    rows = [row("80", "a", 70), row("80", "a", 72), row("80", "b", 75, **fast), row("90", "b", 60, **fast)]
    first, second, *_ = [line for line in cost_table(rows).splitlines() if line.startswith(("| a", "| b"))]
    assert first == "| b | mask search | 75.00 (1) | 99.00 | 80.00 | 1.0 search + 0.5 head | 1.50 | 9 |"
    assert second == "| a | ticket | 71.00 ± 1.41 (2) | 99.00 | 80.00 | 2.0 training | 1.50 | 9 |"
    earlier = {"task": "80", "rival": "c", "top1": 80.0, "sparsity": 0.8, "seconds": 3.0, "test_images": 10}
    assert "| c | – | 80.00 (1) | – | 80.00 | – | – | 3 |" in cost_table([*rows, earlier])
    pytest.importorskip("matplotlib")
    for draw in (cost_figure, sparsity_figure):
        picture = draw(rows)
        assert picture is not None
        assert picture == draw(rows) == draw([*rows, earlier])
    assert sparsity_figure(rows[:3]) is None


def test_settings_given_as_flags_are_not_tuned(tmp_path: Path) -> None:
    plan = plan_rivals(config(tmp_path, settings=("lr=0.3", "tune_steps=1")))
    probe = plan.tasks["a"][0]
    assert probe.candidates == ({},)
    assert probe.settings["lr"] == 0.3
    assert probe.tune_steps == 1
