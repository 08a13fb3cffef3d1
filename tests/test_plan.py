"""`search --plan`: what a run would take, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_processes import started

from timm_jackpot.base import build_skeleton
from timm_jackpot.errors import ConfigError
from timm_jackpot.search import config_from
from timm_jackpot.search.plan import memory_of, plan_search

SMALL = {"model": "test_vit", "num_classes": 10, "img_size": 32, "batch_size": 16}


def test_a_plan_needs_no_data_if_the_steps_are_given_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan_search(config_from({**SMALL, "data_dir": "nowhere", "steps": 3600, "head_steps": 30}))
    assert not list(tmp_path.iterdir())
    assert "training_images" not in found
    assert found["steps"] == 3600
    # A second a step would be an hour.
    assert found["hours"] == pytest.approx(16 / found["images_per_second"])
    assert found["mask_bytes"] == found["maskable_weights"] / 8
    assert found["score_bytes"] == found["gradient_bytes"] == found["momentum_bytes"] == 4 * found["maskable_weights"]
    assert found["weight_bytes"] == 4 * found["parameters"]
    assert found["gathered_bytes"] == 0
    assert found["peak_bytes"] > sum(found[f"{part}_bytes"] for part in ("weight", "score", "gradient", "momentum"))


def test_a_plan_counts_the_steps_of_an_epoch() -> None:
    found = plan_search(config_from({"epochs": 2, "batch_size": 100}))
    assert (found["training_images"], found["steps"]) == (1078, 20)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "hf-hub:user/net"}, r"^--plan is for timm's models, and 'hf-hub:user/net' is none"),
        ({"sparsity": "auto"}, r"^--plan cannot choose a sparsity"),
        ({"method": "imp"}, r"^--plan is for searches of some steps: leave it out for imp with 100"),
        ({"steps": 0}, r"^--plan is for searches of some steps: leave it out for search with 0"),
        ({"num_classes": 7, "head_steps": 200}, r"^--head-steps 200 are more than the run's 100 steps"),
        ({"model": "test_vit", "model_kwargs": ("colour=red",)}, r"^test_vit does not take these arguments"),
    ],
)
def test_what_cannot_be_planned_is_said(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan_search(config_from({"steps": 100, **settings}))


def test_memory_is_counted_without_memory() -> None:
    model = build_skeleton("vit_7b_patch16_dinov3", {})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 6.7e9 < parameters < 6.8e9
    alone, of_eight = memory_of(model, parameters), memory_of(model, parameters, 8)
    assert sum(alone.values()) == 16 * parameters
    assert sum(of_eight.values()) - of_eight["gathered_bytes"] == pytest.approx(5.5 * parameters)
    assert of_eight["gathered_bytes"] == pytest.approx(8 * parameters / 40, rel=0.01)  # one of forty blocks
    assert memory_of(model, parameters, moments=2)["momentum_bytes"] == 8 * parameters


def test_what_is_gathered_of_a_stage_is_one_of_its_blocks() -> None:
    model = build_skeleton("convnext_tiny", {})
    block = model.get_submodule("stages.3.blocks.0")
    widest = sum(parameter.numel() for parameter in block.parameters())
    assert memory_of(model, 1000, 2)["gathered_bytes"] == 8 * widest


def test_filters_have_a_score_each() -> None:
    found = plan_search(config_from({**SMALL, "model": "resnet18", "steps": 9, "allocation": "filters"}))
    assert found["score_bytes"] < 4 * found["maskable_weights"] / 100


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_plan_measures_what_was_launched() -> None:
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    with started(
        2, ["-m", "timm_jackpot.search", "--plan", "--steps", "9", *words], ACCELERATE_USE_FSDP="true", FSDP_VERSION="2"
    ) as processes:
        out, _ = processes[0].communicate(timeout=200)
        assert [process.wait() for process in processes] == [0, 0]
    found = json.loads(out.splitlines()[-1])
    assert found["processes"] == 2
    assert found["score_bytes"] == 2 * found["maskable_weights"]
    assert found["gathered_bytes"] > 0
