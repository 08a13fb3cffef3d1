"""The regime of a task with a new head: its default sparsity, and `--sparsity auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from timm_jackpot.artifact import read_artifact
from timm_jackpot.base import base_from_module, load_base
from timm_jackpot.errors import ConfigError, RunInterrupted
from timm_jackpot.own_loop import JackpotConfig
from timm_jackpot.search import SearchConfig, SearchResult, config_of, search_jackpot
from timm_jackpot.search.auto_sparsity import SPARSITIES
from timm_jackpot.search.reopen import search_settings
from timm_jackpot.training import read_record

pytestmark = pytest.mark.usefixtures("few_digits")

SMALL = {"dataset": "digits", "batch_size": 64, "val_fraction": 0.5}


@pytest.mark.parametrize(
    ("settings", "sparsity"),
    [
        ({"model": "resnet50"}, "0.9"),
        ({"model": "resnet50", "num_classes": 102}, "0.5"),
        ({"model": "resnet50.a1_in1k", "num_classes": 1000}, "0.9"),  # keeps its head
        ({"model": "local-dir:somewhere", "num_classes": 1000}, "0.5"),
        ({"model": "resnet50", "num_classes": 102, "sparsity": "0.9"}, "0.9"),
        ({"model": "resnet50", "num_classes": 102, "preset": "paper"}, "0.5"),
        ({"model": "resnet50", "num_classes": 102, "allocation": "1:4"}, "0.75"),
    ],
)
def test_a_new_head_has_its_own_default_sparsity(settings: dict[str, Any], sparsity: str) -> None:
    assert SearchConfig(**settings).sparsity == sparsity


def test_a_module_with_a_new_head_has_it_too(tmp_path: Path) -> None:
    module = load_base("digits_resnet").model
    told: dict[str, Any] = {"num_classes": 10, "input_size": (3, 32, 32), "classifier": "fc", "new_head": True}
    base = base_from_module(module, "own", **told)
    config = SearchConfig(**SMALL, steps=1, output=str(tmp_path / "j"))
    assert search_jackpot(config, base).jackpot.masks.sparsity == pytest.approx(0.5, abs=1e-3)


def test_a_method_with_its_own_default_keeps_it() -> None:
    assert config_of("low_flip")(num_classes=102).sparsity == "0.01"
    assert config_of("snip")(num_classes=102).sparsity == "0.5"


@pytest.fixture(scope="module")
def auto(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchConfig, SearchResult]:
    output = tmp_path_factory.mktemp("auto") / "whole"
    config = SearchConfig(**SMALL, sparsity="auto", steps=24, checkpoint_steps=5, resume="auto", output=str(output))
    return config, search_jackpot(config)


def test_auto_takes_the_best_on_held_out_images_within_the_budget(auto: tuple[SearchConfig, SearchResult]) -> None:
    config, result = auto
    record = read_record(Path(config.output) / "record.jsonl")
    choice = record.last("sparsity_choice")
    assert list(choice["top1"]) == list(SPARSITIES)
    assert choice["top1"][choice["sparsity"]] == max(choice["top1"].values())
    assert choice["trial_steps"] * len(SPARSITIES) + choice["steps"] == 24
    assert result.summary["steps"] == choice["steps"] == 12
    artifact = read_artifact(Path(config.output))
    assert artifact.config.sparsity.requested == choice["sparsity"]
    assert result.jackpot.masks.sparsity == pytest.approx(float(choice["sparsity"]), abs=1e-3)
    assert search_settings(artifact, SearchConfig()).sparsity == choice["sparsity"]  # an audit repeats what was chosen


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_sparsity_that_was_chosen(
    auto: tuple[SearchConfig, SearchResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole = auto
    cut = config.model_copy(update={"output": str(tmp_path / "cut")})
    with monkeypatch.context() as patch:
        patch.setattr("timm_jackpot.search.run.build_network", _fail)
        with pytest.raises(RunInterrupted):
            search_jackpot(cut)
    monkeypatch.setattr("timm_jackpot.search.auto_sparsity._try_all", _fail)
    assert search_jackpot(cut).jackpot.masks.hash() == whole.jackpot.masks.hash()


def _fail(*_: Any) -> None:
    raise RunInterrupted("killed", 15)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 7}, "--sparsity auto needs at least 8 steps, not 7"),
        ({"steps": 8, "val_fraction": 0}, "--sparsity auto needs held-out images"),
    ],
)
def test_auto_needs_steps_and_held_out_images(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        search_jackpot(SearchConfig(**{**SMALL, **settings}, sparsity="auto", output=str(tmp_path / "j")))
    assert list(tmp_path.iterdir()) == []


def test_only_a_run_can_choose_its_sparsity() -> None:
    with pytest.raises(ConfigError, match="'auto' is not a number"):
        JackpotConfig(sparsity="auto")
