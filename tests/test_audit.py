"""Whole audits of small digits jackpots."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from accelerate import Accelerator

from timm_jackpot.artifact import read_artifact
from timm_jackpot.audit import AuditConfig, AuditReport, PooledReport, audit_jackpot, evaluate, pool_audits
from timm_jackpot.audit.__main__ import main
from timm_jackpot.audit.predictions import PREDICTIONS
from timm_jackpot.base import load_base, tensor_ids
from timm_jackpot.data import DataFlags, open_data
from timm_jackpot.errors import ArtifactError, ConfigError, TrainingError
from timm_jackpot.evaluation import evaluate_accuracy, predict
from timm_jackpot.evidence import AUDIT_CONTROLS, AUDIT_MODELS, similar_margin
from timm_jackpot.evidence.read import read_audit
from timm_jackpot.hub import render_card
from timm_jackpot.hub.push import _collect
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods import Task, method
from timm_jackpot.methods.controls import permute_within
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.search.reopen import reopen_search, search_settings

pytestmark = pytest.mark.usefixtures("few_digits")

STEPS, BATCH = 6, 64


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited") / "j"
    # Few training images: statistics are re-estimated for every model, and quickly so.
    search_jackpot(SearchConfig(steps=STEPS, batch_size=BATCH, seed=5, val_fraction=0.7, output=str(folder)))
    return folder


@pytest.fixture(scope="module")
def audited(original: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AuditReport]:
    folder = tmp_path_factory.mktemp("audited") / "copy"
    shutil.copytree(original, folder)
    return folder, audit_jackpot(AuditConfig(artifact=str(folder), seeds=2))


@pytest.fixture
def artifact(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "j"))


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches that take no time and find any masks."""

    def found(_: object, __: object, task: Task, *___: object, seed: int, **____: object) -> MaskSet:
        return permute_within(task.masks_to_control(), seed=seed)

    monkeypatch.setattr("timm_jackpot.methods.mask_search.find_masks", found)


def test_every_model_is_judged_as_often_as_it_has_seeds(audited: tuple[Path, AuditReport]) -> None:
    _, report = audited
    assert set(report.models) == set(AUDIT_MODELS)
    repeated = {name for name, measured in report.models.items() if measured.n == 2}
    assert repeated == {
        "permuted_within",
        "permuted_across",
        "random",
        "reinitialised",
        "shuffled_labels",
        "second_search",
    }
    assert all((measured.std is None) == (measured.n == 1) for measured in report.models.values())
    assert report.seeds == [6, 7]
    assert report.steps == STEPS
    assert report.data.test_images == 120
    assert report.data.calibration_images == BATCH
    assert report.data.leaked_test_images == 0
    assert report.models["random"].top1.value < report.models["jackpot_recalibrated"].top1.value
    assert report.second_search.overlap > report.second_search.chance + 0.05
    assert report.overlaps["random"].overlap == pytest.approx(report.overlaps["random"].chance, abs=0.005)
    assert report.overlaps["magnitude"].overlap > 0.95


def test_figures_are_those_of_the_search_where_both_have_them(audited: tuple[Path, AuditReport]) -> None:
    folder, report = audited
    results = read_artifact(folder).config.info["results"]
    for name, key in {
        "dense": "dense_top1",
        "jackpot": "jackpot_top1",
        "magnitude": "magnitude_top1",
        "magnitude_recalibrated": "magnitude_recalibrated_top1",
    }.items():
        assert report.models[name].top1.value == pytest.approx(results[key]), name


def test_report_card_and_pictures_lie_beside_the_artifact(audited: tuple[Path, AuditReport]) -> None:
    folder, report = audited
    artifact = read_artifact(folder)
    assert read_audit(artifact) == report
    pictures = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.glob("plots/*.png")))
    assert {"plots/audit_accuracy.png", "plots/audit_overlap.png", "plots/audit_layers.png"} < set(pictures)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == render_card(artifact, pictures=pictures)
    assert all(f"]({picture})" in card for picture in pictures)
    assert not list(folder.rglob("*.part"))
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert str(folder.parent).encode() not in path.read_bytes(), path.name


def test_a_push_takes_report_and_pictures_along(audited: tuple[Path, AuditReport], tmp_path: Path) -> None:
    folder, _ = audited
    names = _collect(read_artifact(folder), tmp_path, "user/name", None)
    pictures = {path.relative_to(folder).as_posix() for path in folder.glob("plots/audit_*.png")}
    assert {"audit.json", *pictures} <= set(names)
    assert "was audited against controls" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_search")
def test_an_audit_into_a_folder_of_its_own_leaves_the_artifact_alone(
    audited: tuple[Path, AuditReport], tmp_path: Path
) -> None:
    folder, report = audited
    beside = ("full_sgd", "random_weights")
    one = audit_jackpot(AuditConfig(artifact=str(folder), seeds=1, beside=beside, output=str(tmp_path / "o")))
    assert one.seeds == report.seeds[:1]
    assert one.models["full_sgd"].jackpot_ahead is not None
    assert set(one.models) == {*report.models, *beside}
    for name, measured in report.models.items():
        if measured.n == 1:
            assert one.models[name].top1.value == measured.top1.value
    page = (tmp_path / "o" / "audit.md").read_text(encoding="utf-8")
    assert f"Verdict: **{one.verdict}**" in page
    names = ["audit.json", "audit.md", "audit.predictions.json", "plots"]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == names
    assert read_audit(read_artifact(folder)) == report  # untouched


@pytest.mark.slow
def test_a_search_from_the_jackpots_own_seed_finds_the_jackpot(original: Path, accelerator: Accelerator) -> None:
    base = load_base("digits_resnet")
    artifact = read_artifact(original)
    task, budget, config = reopen_search(artifact, base, AuditConfig(artifact=str(original)), accelerator)
    assert budget.steps == STEPS

    def again(name: str = "search", seed: int = 5) -> MaskSet | None:
        return method(name).run(task, replace(budget, seed=seed), config).masks

    assert again() == artifact.masks
    assert again(seed=6) != artifact.masks
    assert again("shuffled_labels") != artifact.masks
    assert tensor_ids(base.model) == base.tensors  # the base is as it was


def test_predictions_are_the_accuracy_image_by_image(accelerator: Accelerator) -> None:
    model = load_base("digits_resnet").model.train()
    test = open_data(DataFlags(), model, device=accelerator.device).test
    found = predict(model, test, batch_size=100, accelerator=accelerator)
    accuracy = evaluate_accuracy(model, test, batch_size=128, accelerator=accelerator)
    assert model.training
    assert torch.equal(found.labels, torch.as_tensor(test.labels))  # pyright: ignore
    assert 100 * found.correct.double().mean().item() == pytest.approx(accuracy.top1)


@pytest.mark.parametrize(
    ("control", "broken", "message"),
    [
        ("controls.permute_within", lambda masks, seed: masks, "permuted_within is broken: it agrees"),
        ("controls.permute_across", lambda masks, seed: masks, "permuted_across is broken: it agrees"),
        (
            "one_shot.start_from",
            lambda _, task, budget, batches: _Start(_one_more(permute_within(task.jackpot, seed=budget.seed))),
            "random is broken: it keeps",
        ),
        ("controls.smallest_weights", lambda masks, weights: _one_more(masks), "smallest is broken: it keeps"),
        ("controls.draw_weights", lambda weights, seed: weights, "was not reinitialized"),
    ],
)
def test_a_planted_broken_control_stops_the_audit(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, control: str, broken: Any, message: str
) -> None:
    monkeypatch.setattr(f"timm_jackpot.methods.{control}", broken)
    # Nothing needs to be judged for it.
    monkeypatch.setattr("timm_jackpot.audit.evaluate._evaluate", lambda row, _: {"row": row.make() and None})
    before = {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=message):
        audit_jackpot(AuditConfig(artifact=str(artifact), seeds=1))
    (artifact / "audit.partial.json").unlink()  # the rows before it
    assert {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()} == before


def test_an_audit_that_was_stopped_goes_on_and_ends_the_same(
    artifact: Path, audited: tuple[Path, AuditReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = evaluate._evaluate

    def stopping(row: evaluate.AuditRow, task: Task) -> dict[str, Any]:
        if len(asked) == 9:
            raise KeyboardInterrupt
        asked.append(row.name)
        return ask(row, task)

    monkeypatch.setattr(evaluate, "_evaluate", stopping)
    config = AuditConfig(artifact=str(artifact), seeds=2)
    with pytest.raises(KeyboardInterrupt):
        audit_jackpot(config)
    with pytest.raises(ConfigError, match=r"holds dense with batch_size 64, not 32: choose another --output"):
        audit_jackpot(AuditConfig(artifact=str(artifact), seeds=2, batch_size=32))
    monkeypatch.setattr(evaluate, "_evaluate", lambda row, task: asked.append(row.name) or ask(row, task))
    report = audit_jackpot(config)
    assert len(asked) == 7 + 6 * 2
    assert report.models == audited[1].models
    assert report.second_search == audited[1].second_search
    assert not (artifact / "audit.partial.json").exists()


def test_audits_of_two_folds_give_one_verdict_over_all_their_images(
    audited: tuple[Path, AuditReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, report = audited
    settings: dict[str, Any] = {"dataset": "digits/2", "steps": STEPS, "batch_size": BATCH, "seed": 5}
    search_jackpot(SearchConfig(val_fraction=0.7, output=str(tmp_path / "second"), **settings))
    other = audit_jackpot(AuditConfig(artifact=str(tmp_path / "second"), seeds=2, dataset="digits/2"))
    words = ["audit", "--pool", str(first), str(tmp_path / "second"), "--output", str(tmp_path / "pooled")]
    monkeypatch.setattr(sys, "argv", words)
    summary = main()
    page = (tmp_path / "pooled" / "audit.md").read_text()
    assert summary["test_images"] == 120 + 120
    assert f"Verdict: **{summary['verdict']}**" in capsys.readouterr().out
    assert "on the combined test splits of 2 audits (n = 240), which share no image" in page
    assert "All audits have one base" in page
    assert "over 2 seeds" in page
    pooled = PooledReport.model_validate_json((tmp_path / "pooled" / "audit.json").read_text())
    assert [fold.mask_hash for fold in pooled.folds] == [report.mask_hash, other.mask_hash]
    for name, measured in pooled.models.items():
        ours, theirs = report.models[name], other.models[name]
        assert measured.n == ours.n
        assert measured.top1.value == pytest.approx((ours.top1.value + theirs.top1.value) / 2)
    width = [one.behind_dense.high - one.behind_dense.low for one in (pooled, report)]
    assert width[0] < width[1]
    assert pooled.sparsity == pytest.approx(report.sparsity)


def test_what_cannot_be_pooled_is_refused(audited: tuple[Path, AuditReport], artifact: Path, tmp_path: Path) -> None:
    folder, _ = audited
    other = Path(shutil.copytree(folder, tmp_path / "other"))

    def refused(why: str, *pool: Path, **settings: Any) -> None:
        names = tuple(map(str, pool))
        with pytest.raises(ConfigError, match=why):
            pool_audits(AuditConfig(pool=names, **({"output": str(tmp_path / "out")} | settings)))
        assert not (tmp_path / "out").exists()

    def damaged(**changes: Any) -> None:
        found = json.loads((folder / PREDICTIONS).read_text())
        (other / PREDICTIONS).write_text(json.dumps({**found, **changes}))

    rows = json.loads((folder / PREDICTIONS).read_text())["rows"]
    refused("share 120 test images: pool audits whose test images differ", folder, other)
    damaged(images=["0" * 16], settings={"steps": 7})
    refused("differ in allocation .*: pool audits of one recipe", folder, other)
    damaged(images=["0" * 16], searched_on="digits/2")
    refused("the mask was searched on digits/2, and audited on digits: it may have seen these images", folder, other)
    damaged(images=None)
    refused("other has too many test images to be compared", folder, other)
    damaged(rows={**rows, "jackpot": rows["dense"]})
    refused(
        "does not belong to the audit.json beside it .the predictions of jackpot do not give its acc", folder, other
    )
    damaged(rows={name: several for name, several in rows.items() if name != "random"})
    refused("random has other predictions", folder, other)
    damaged(labels="!")
    refused("does not belong to the audit.json beside it", folder, other)
    (other / PREDICTIONS).unlink()
    refused("does not belong to the audit.json beside it", folder, other)
    refused(r"holds no audit of a jackpot .*: audit one there first", folder, artifact)
    refused("there is no folder", folder, tmp_path / "nowhere")
    refused("--pool takes two or more folders", folder)
    refused("goes with --output and --similar-margin alone", folder, folder, seeds=2)
    shutil.copy(folder / PREDICTIONS, other)
    refused("holds one of the audits, which would be replaced", folder, other, output=str(other))


class _Start(NamedTuple):
    masks: MaskSet


def _one_more(masks: MaskSet) -> MaskSet:
    changed = {name: mask.clone() for name, mask in masks.items()}
    first = next(iter(changed.values())).view(-1)
    first[(~first).nonzero()[0]] = True
    return MaskSet(changed)


@pytest.mark.usefixtures("no_search")
def test_a_planted_test_image_in_train_leaves_the_verdict_open(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leaky(*args: Any, **kwargs: Any) -> Any:
        data = open_data(*args, **kwargs)
        train: Any = data.train
        images = train.images.clone()
        images[3] = data.test.images[11]  # pyright: ignore
        return replace(data, train=replace(train, images=images))

    monkeypatch.setattr("timm_jackpot.search.reopen.open_data", leaky)
    monkeypatch.setattr(sys, "argv", ["audit", "--artifact", str(artifact), "--seeds", "1"])
    (artifact / "README.md").write_text("my own words", encoding="utf-8")
    summary = main()
    captured = capsys.readouterr()
    assert summary["verdict"] == "not decided"
    assert summary["leaked_test_images"] == 1
    assert "1 test images are also training images" in captured.out
    assert set(summary["controls"]) == set(AUDIT_CONTROLS)  # pyright: ignore
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (artifact / "README.md").read_text(encoding="utf-8") == "my own words"
    assert "README.md was edited" in captured.err
    assert "audit: 13 of 13: search with shuffled labels, seed 6" in captured.err


def test_settings_are_the_artifacts_but_no_data_of_this_machine(artifact: Path) -> None:
    recipe = yaml.safe_load((artifact / "recipe.yaml").read_text())
    recipe |= {"dataset": "hfds/evil/data", "data_dir": "/etc", "output": "/x", "lr": 0.25, "report_to": "wandb"}
    recipe |= {"hflip": 0.25, "model": "resnet50", "sparsity": "0.5"}
    (artifact / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = search_settings(read_artifact(artifact), AuditConfig(artifact="x", batch_size=32, data_dir="mine"))
    assert (found.lr, found.hflip, found.steps) == (0.25, 0.25, STEPS)
    assert (found.dataset, found.data_dir, found.batch_size) == (None, "mine", 32)
    assert (found.output, found.report_to, found.model) == (None, None, "digits_resnet")
    assert found.sparsity == "0.9"  # config.json's, which the mask proves
    (artifact / "recipe.yaml").unlink()
    found = search_settings(read_artifact(artifact), AuditConfig(artifact="x"))
    assert (found.lr, found.steps, found.batch_size) == (0.05, STEPS, BATCH)  # info.config


def _with_info(folder: Path, **info: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["info"] = info
    (folder / "config.json").write_text(json.dumps(config))


def test_an_artifact_that_does_not_say_how_it_was_searched_is_refused(artifact: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ArtifactError, match=message):
            audit_jackpot(AuditConfig(artifact=str(artifact)))

    (artifact / "recipe.yaml").write_text("lr: high\n")
    refused("the artifact's search settings are not valid: --lr high: input should be a valid number")
    (artifact / "recipe.yaml").write_text("- 1\n")
    refused("does not record its search settings")
    (artifact / "recipe.yaml").unlink()
    _with_info(artifact)
    refused("does not record its search settings")
    _with_info(artifact, config={})
    refused("does not record the number of steps")


def test_what_cannot_be_audited_is_refused_before_anything_is_searched(tmp_path: Path, shared: Path) -> None:
    def search(name: str, **settings: Any) -> Path:
        search_jackpot(SearchConfig(steps=0, output=str(tmp_path / name), dataset="digits", **settings))
        return tmp_path / name

    dense = search("d", sparsity="0")
    with pytest.raises(ConfigError, match="keeps or removes almost all weights"):
        audit_jackpot(AuditConfig(artifact=str(dense)))
    with pytest.raises(ConfigError, match="with --output FOLDER"):
        audit_jackpot(AuditConfig(artifact="user/name"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        audit_jackpot(AuditConfig(artifact=str(dense), output=str(tmp_path / "file" / "o")))


def test_margins_are_the_papers() -> None:
    assert similar_margin("torch/cifar10") == 0.5
    assert similar_margin("torch/cifar100") == 1.0
    assert similar_margin("hfds/zh-plus/tiny-imagenet") == 1.0
    assert similar_margin("hfds/timm/mini-imagenet") == 1.5
    assert similar_margin("folder") == similar_margin("digits") == 0.5
