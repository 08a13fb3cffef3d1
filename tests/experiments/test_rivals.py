"""Rivals on one task: tuned on held-out images, judged on the test split, resumed from results.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.rivals import RivalsConfig, compare_rivals, plan_rivals

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
        (RECIPE.replace("rank: 2", "seed: 2"), {}, "lora on a sets seed: leave it out"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(tmp_path: Path, recipe: str, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan_rivals(config(tmp_path, recipe, **more))
