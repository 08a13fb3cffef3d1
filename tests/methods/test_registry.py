"""A method is one decorated function: everything that runs methods finds it, and nothing else has to be told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import Field

from timm_jackpot.artifact import read_artifact
from timm_jackpot.audit import AuditConfig, audit_jackpot
from timm_jackpot.cli import parse
from timm_jackpot.criteria import criterion, criterion_names
from timm_jackpot.errors import ConfigError
from timm_jackpot.evidence import audit_section
from timm_jackpot.experiments.comparison import CompareConfig, compare_masks
from timm_jackpot.experiments.sweeps import SweepConfig, run_sweep
from timm_jackpot.experiments.transfer import TransferConfig, transfer_masks
from timm_jackpot.masks import MaskSet, keep_largest
from timm_jackpot.methods import (
    Budget,
    FixedMaskSettings,
    Outcome,
    Task,
    all_methods,
    method,
    register_method,
    under_masks,
    unregister_method,
)
from timm_jackpot.methods.__main__ import main as list_methods
from timm_jackpot.schema import Settings
from timm_jackpot.search import RunConfig, SearchConfig, config_from, config_of, search_jackpot
from timm_jackpot.search.__main__ import main as search_main
from timm_jackpot.search.save import published_settings

SMALL = {"dataset": "digits", "batch_size": 64, "val_fraction": 0.7}


class ToySettings(FixedMaskSettings):
    """Settings of the toy."""

    noise: float = Field(default=0.1, ge=0, le=1)
    """How far scores are from magnitudes."""


@pytest.fixture
def toy() -> Iterator[str]:
    @register_method("toy", family="one-shot", paper="none", defaults={"allocation": "uniform"})
    def toy(task: Task, budget: Budget, settings: ToySettings) -> Outcome:
        """Keep the largest weights, give or take."""
        generator = torch.Generator().manual_seed(budget.seed)
        weights = task.maskable.weights
        scores = {
            name: w.detach().abs() + settings.noise * torch.rand(w.shape, generator=generator)
            for name, w in weights.items()
        }
        kept = budget.counts(scores)
        masks = MaskSet({name: keep_largest(values, kept[name]) for name, values in scores.items()})
        return under_masks(task, masks, budget, settings)

    yield "toy"
    unregister_method("toy")


@pytest.fixture(scope="module")
def jackpot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "j"
    search_jackpot(SearchConfig(steps=2, output=str(folder), **SMALL))
    return folder


def test_search_runs_a_new_method_and_its_help_lists_it(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "--method", toy, "--noise", "0.2", "--output", str(tmp_path / "j"), "--val-fraction", "0"]
    monkeypatch.setattr(sys, "argv", words)
    summary = search_main()
    assert (summary["method"], summary["steps"]) == ("toy", 0)
    recipe = (tmp_path / "j" / "recipe.yaml").read_text()
    assert "method: toy" in recipe
    assert "noise: 0.2" in recipe
    assert "allocation: uniform" in recipe
    assert read_artifact(tmp_path / "j").config.allocation.label == "uniform"
    capsys.readouterr()
    for words, told in (([], ", toy."), (["--method", toy], "--noise X")):
        with pytest.raises(SystemExit):
            parse(SearchConfig, argv=[*words, "--help"], schema_of=config_of)
        assert told in " ".join(capsys.readouterr().out.split())


def test_a_sweep_compares_a_new_method_with_others(toy: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(
        "dataset: digits\nsteps: 1\nbatch_size: 64\nval_fraction: 0\nseeds: [0]\ngrid:\n  method: [search, toy]\n"
    )
    run_sweep(SweepConfig(sweep=str(tmp_path / "grid.yaml"), output=str(tmp_path / "out")))
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| toy |" in table
    assert "| search |" in table


@pytest.mark.slow
def test_a_transfer_takes_a_source_of_a_new_method(toy: str, tmp_path: Path) -> None:
    (tmp_path / "transfer.yaml").write_text(
        "dataset: digits\nsteps: 1\nbatch_size: 64\nval_fraction: 0\nhead_steps: 1\nseeds: [0]\n"
        "targets:\n  digits:\nsources:\n  by-toy: {data: digits, method: toy}\n"
    )
    result = transfer_masks(TransferConfig(transfer=str(tmp_path / "transfer.yaml"), output=str(tmp_path / "out")))
    assert "by-toy" in result.table


@pytest.mark.slow
def test_an_audit_shows_a_new_method_beside_the_controls(toy: str, jackpot: Path, tmp_path: Path) -> None:
    config = AuditConfig(artifact=str(jackpot), seeds=1, beside=(toy,), output=str(tmp_path / "out"))
    report = audit_jackpot(config)
    assert report.models["toy"].n == 1
    assert report.models["toy"].jackpot_ahead is not None
    assert "toy" not in report.controls
    assert "| toy |" in audit_section(report)


def test_a_comparison_runs_a_new_method_on_the_artifacts_task(toy: str, jackpot: Path) -> None:
    comparison = compare_masks(CompareConfig(artifacts=(str(jackpot),), methods=(toy, "dense")))
    first, by_toy, dense = comparison.summary["compared"]
    assert by_toy["name"] == "toy"
    assert by_toy["sparsity"] == first["sparsity"]
    assert 0 < by_toy["jackpot_top1"] < dense["jackpot_top1"] == first["dense_top1"]
    pairs = comparison.summary["pairs"]
    assert pairs[0]["overlap"] > pairs[0]["chance"]
    assert pairs[1]["why_not"] == "one of them is dense"


def test_methods_are_listed_with_family_paper_and_settings(
    toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["methods"])
    listed = {one["name"]: one for one in list_methods()["methods"]}
    settings = listed["toy"].pop("settings")
    assert settings["noise"] == 0.1
    assert listed["toy"] == {
        "name": "toy",
        "family": "one-shot",
        "paper": "none",
        "summary": "Keep the largest weights, give or take.",
    }
    assert listed["paper"]["settings"]["lr"] == 0.1
    assert set(criterion_names()) < listed.keys()
    assert "toy" in capsys.readouterr().out


def test_every_method_says_what_it_is() -> None:
    for one in all_methods():
        assert one.summary.endswith("."), one.name
        assert issubclass(one.settings, Settings)
        assert config_of(one.name).model_fields["method"].default == one.name
        assert all(field.description for field in one.settings.model_fields.values()), one.name


def test_the_paper_is_a_method_and_a_preset_of_the_search() -> None:
    by_method, by_preset = config_of("paper")(), SearchConfig(preset="paper")
    for name, value in method("paper").defaults.items():
        assert getattr(by_method, name) == getattr(by_preset, name) == value, name


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not have the settings of the method snip: use config_of\('snip'\)"):
        SearchConfig(method="snip")
    with pytest.raises(ConfigError, match=r"there is no method 'serach': did you mean search\?"):
        config_from({"method": "serach"})
    with pytest.raises(ConfigError, match="unknown setting temperature"):
        config_from({"method": "snip", "temperature": 2})
    with pytest.raises(ConfigError, match="there is no criterion 'magnitud'"):
        criterion("magnitud")
    assert isinstance(config_from({}), RunConfig)


def test_a_method_that_finds_no_jackpot_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in ("dense", "reinitialised", "random_weights", "smallest"):
        with pytest.raises(ConfigError, match=f"the method {name} does not give a mask that an artifact can hold"):
            search_jackpot(config_of(name)(output=str(tmp_path / name), **SMALL))
    assert list(tmp_path.iterdir()) == []


def test_the_verb_prints_json_on_its_last_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "timm_jackpot.methods"], capture_output=True, text=True, timeout=120, check=True
    )
    assert len(json.loads(done.stdout.splitlines()[-1])["methods"]) == len(all_methods())


def test_settings_that_are_stored_lead_back_to_the_same_run(tmp_path: Path) -> None:
    for config in (
        config_of("paper")(steps=3, lr=0.05),
        SearchConfig(preset="paper", start="proportional", lr=0.05),
        SearchConfig(steps=3, sparsity=0.5),
        config_of("snip")(criterion_batches=2),
    ):
        assert config_from(published_settings(config, exclude_defaults=True)) == config
        assert len(published_settings(config, exclude_defaults=True)) < 20


@pytest.mark.parametrize("names", [("random",), ("dense",), ("obd", "obd")])
def test_an_audit_has_each_row_once(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="is already a row of the audit"):
        AuditConfig(artifact="j", beside=names)


def test_a_sweep_of_what_finds_no_jackpot_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("dataset: digits\nsteps: 1\nseeds: [0]\ngrid:\n  method: [search, dense]\n")
    with pytest.raises(ConfigError, match="cell method-dense: the method dense leaves neither an artifact nor a"):
        run_sweep(SweepConfig(sweep=str(tmp_path / "grid.yaml"), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_masks_over_other_weights_have_no_overlap(jackpot: Path) -> None:
    comparison = compare_masks(CompareConfig(artifacts=(str(jackpot),), methods=("reinitialised",)))
    assert comparison.summary["pairs"][0]["why_not"] == "the bases differ"


def test_a_pattern_as_a_methods_default_implies_its_sparsity() -> None:
    @register_method("patterned", family="one-shot", defaults={"allocation": "2:4"})
    def patterned(task: Task, budget: Budget, settings: ToySettings) -> Outcome:
        """Two of every four weights."""
        raise NotImplementedError

    try:
        assert config_of("patterned")().sparsity == "0.5"
        assert config_of("patterned")(allocation="erk").sparsity == "0.9"
        with pytest.raises(ConfigError, match="leave --sparsity out"):
            config_of("patterned")(sparsity=0.9)
    finally:
        unregister_method("patterned")
