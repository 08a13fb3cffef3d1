"""Masks side by side: overlaps with chance, what cannot be overlapped, and an audit that nobody vouches for."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from timm_jackpot.artifact import load_base_of, open_artifact, read_artifact, recode
from timm_jackpot.base import Base
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.compare import main
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evidence import AuditReport
from timm_jackpot.experiments.comparison import CompareConfig, compare_masks
from timm_jackpot.experiments.comparison.columns import Column
from timm_jackpot.experiments.comparison.pairs import pairs_of
from timm_jackpot.masks import MaskSet, layer_overlaps, mask_overlap
from timm_jackpot.plots import overlap_figure
from timm_jackpot.search import SearchConfig, search_jackpot

pytestmark = pytest.mark.usefixtures("few_digits")


def mask(text: str) -> torch.Tensor:
    return torch.tensor([character == "1" for character in text])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One-shot masks: by magnitude (a), random (b), beside a new head (h), stage 1 dense (x), of other weights (o)."""
    folder = tmp_path_factory.mktemp("compare")
    for split in ("train", "test"):
        for label in "abc":
            (folder / "images" / split / label).mkdir(parents=True)
            pixels = np.full((32, 32, 3), 40 * ord(label) % 256, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / label / "0.png")

    def search(name: str, **settings: object) -> None:
        search_jackpot(SearchConfig(steps=0, output=str(folder / name), **settings))  # pyright: ignore

    search("a")
    search("b", criterion="random", allocation="uniform")
    small = {"batch_size": 2, "workers": 0, "val_fraction": 0}
    search("h", dataset="folder", data_dir=str(folder / "images"), num_classes=3, sparsity="0.9", **small)
    search("x", exclude=("layer1.*",))
    search("o", pretrained=False)
    return folder


def compared(folder: Path, *names: str, **settings: object) -> dict:
    paths = tuple(str(folder / name) for name in names)
    return compare_masks(CompareConfig(artifacts=paths, **settings)).summary  # pyright: ignore


# -- side by side -----------------------------------------------------------------------------------


def test_artifacts_and_criteria_of_one_base(found: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "compared"
    summary = compared(found, "a", "b", criteria=("magnitude", "random", "synflow"), output=str(output))
    assert [entry["name"] for entry in summary["compared"]] == ["a", "b", "magnitude", "random", "synflow"]
    pairs = {(pair["a"], pair["b"]): pair for pair in summary["pairs"]}
    assert len(pairs) == 10
    assert pairs["a", "magnitude"]["overlap"] == 1.0
    assert pairs["a", "magnitude"]["chance"] < 0.9
    for pair in (pairs["a", "b"], pairs["a", "random"]):  # 313 000 weights: chance is met within a fifth of a point
        assert pair["overlap"] == pytest.approx(pair["chance"], abs=0.002)
    a, b = (read_artifact(found / name).masks for name in "ab")
    assert pairs["a", "b"]["overlap"] == mask_overlap(a, b)
    assert pairs["a", "b"]["layers"] == {name: layer._asdict() for name, layer in layer_overlaps(a, b).items()}
    magnitude, random, synflow = summary["compared"][2:]
    assert magnitude["mask_hash"] == a.hash()
    assert {entry["sparsity"] for entry in (magnitude, random, synflow)} == {a.sparsity}
    assert len({entry["mask_hash"] for entry in summary["compared"]}) == 4

    rows = list(csv.DictReader((output / "layers.csv").read_text().splitlines()))
    assert len(rows) == 10 * len(a)
    first = next(row for row in rows if (row["a"], row["b"]) == ("a", "b"))
    assert int(first["kept_a"]) == a.kept_per_layer()[first["layer"]]
    assert float(first["overlap"]) == layer_overlaps(a, b)[first["layer"]].overlap
    text = (output / "comparison.md").read_text()
    assert "|  | a | b | magnitude | random | synflow |" in text
    assert "| allocation | erk | uniform | as a | as a | as a |" in text
    assert "allocation=uniform" in text
    assert (output / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in output.iterdir() if b"/deep/" in path.read_bytes()]


def test_compact_masks_are_compared_beside_their_base(found: Path, tmp_path: Path) -> None:
    shutil.copytree(found / "b", tmp_path / "compact")
    for name, content in recode(*open_artifact(found / "b"), "compact").items():
        (tmp_path / "compact" / name).write_bytes(content)
    pair = compared(tmp_path, str(found / "b"), "compact")["pairs"][0]
    assert pair["overlap"] == 1.0


def test_a_new_head_leaves_the_weights_under_the_mask_the_same(found: Path) -> None:
    (pair,) = compared(found, "a", "h")["pairs"]
    assert read_artifact(found / "a").config.base.digest != read_artifact(found / "h").config.base.digest
    assert (pair["overlap"], pair["why_not"]) == (1.0, None)


def test_masks_over_different_weights_are_shown_without_an_overlap(found: Path, tmp_path: Path) -> None:
    pairs = compared(found, "a", "o", "x", output=str(tmp_path / "c"))["pairs"]
    assert [(pair["overlap"], pair["layers"]) for pair in pairs] == [(None, {})] * 3
    reasons = ["the bases differ", "different layers are masked", "different layers are masked"]
    assert [pair["why_not"] for pair in pairs] == reasons
    assert (tmp_path / "c" / "layers.csv").read_text().count("\n") == 1
    assert not (tmp_path / "c" / "overlap.png").exists()
    assert "the bases differ" in (tmp_path / "c" / "comparison.md").read_text()


def test_artifacts_are_called_by_what_tells_their_paths_apart(found: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name / "seed0" for name in ("x", "y")]
    for path in paths:
        shutil.copytree(found / "a", path)
    assert [entry["name"] for entry in compared(tmp_path, "x/seed0", "y/seed0")["compared"]] == ["x", "y"]
    mixed = compare_masks(CompareConfig(artifacts=(*map(str, paths), str(found / "b"))))
    assert [entry["name"] for entry in mixed.summary["compared"]] == ["x/seed0", "y/seed0", f"{found.name}/b"]
    alone = compare_masks(CompareConfig(artifacts=(str(paths[0]),), criteria=("random",)))
    assert [entry["name"] for entry in alone.summary["compared"]] == ["seed0", "random"]


def test_every_column_has_a_name_of_its_own(found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("seed0", "x/seed0", "magnitude"):
        shutil.copytree(found / "a", tmp_path / path)
    monkeypatch.chdir(tmp_path)

    def names(*artifacts: str, **settings: object) -> list[str]:
        config = CompareConfig(artifacts=artifacts, **settings)  # pyright: ignore
        return [entry["name"] for entry in compare_masks(config).summary["compared"]]

    assert names("seed0", "x/seed0") == ["seed0", "x/seed0"]
    assert names("seed0", "magnitude", criteria=("magnitude",)) == ["seed0", "magnitude", "magnitude (criterion)"]
    monkeypatch.chdir(tmp_path / "seed0")
    assert len(set(names(".", "../x/seed0"))) == 2


def test_a_base_is_known_by_its_weights_not_by_its_name() -> None:
    masks = MaskSet({"w": mask("1100")})
    a, b, c = (Column(name, "net", masks, {"w": digest}) for name, digest in (("a", "1"), ("b", "2"), ("c", "1")))
    assert [(pair.a, pair.b, pair.why_not) for pair in pairs_of([a, b, c])] == [
        ("a", "b", "the bases differ"),
        ("a", "c", None),
        ("b", "c", "the bases differ"),
    ]


@pytest.mark.parametrize(
    ("names", "settings", "sentence"),
    [
        (["a"], {}, "name two artifacts to compare, or one artifact and, for example, --criteria"),
        (
            [],
            {"criteria": ("random", "magnitude")},
            "name two artifacts to compare, or one artifact and, for example, --criteria",
        ),
        (["a", "a"], {}, "is given twice"),
        (["a", "o"], {"criteria": ("random",)}, "a and o mask different weights"),
        (["o"], {"criteria": ("random",)}, "was loaded from a file: pass the same file with --base-checkpoint"),
        (["a", "nowhere"], {}, "neither an artifact folder nor the name of a Hub repo"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    found: Path, tmp_path: Path, names: list[str], settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises((ConfigError, ArtifactError), match=sentence):
        compared(found, *names, output=str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out").exists()


def test_the_base_of_an_artifact_comes_with_its_weights_untouched(found: Path, digits_base: Base) -> None:
    base = load_base_of(read_artifact(found / "a"))
    assert base.tensors == digits_base.tensors
    other = load_base_of(read_artifact(found / "o"), base_checkpoint=found / "o-base.safetensors")
    assert other.tensors != digits_base.tensors


# -- methods ----------------------------------------------------------------------------------------


def test_parts_share_the_methods_and_a_run_without_part_runs_none_again(found: Path, tmp_path: Path) -> None:
    output, methods = str(tmp_path / "deep" / "methods"), ("magnitude", "random", "dense")

    def ran(part: str | None = None, **settings: object) -> dict:
        return compared(found, "a", methods=methods, output=output, part=part, **settings)

    first = ran("1/2")
    assert [entry["name"] for entry in first["compared"]] == ["a", "magnitude", "dense"]
    assert first["left_to_other_parts"] == 1
    second = ran("2/2")
    assert [entry["name"] for entry in second["compared"]] == ["a", *methods]
    assert [path.name for path in Path(output).iterdir() if path.suffix == ".md"] == []
    journals = {path: path.read_bytes() for path in Path(output).iterdir()}
    whole = ran()
    assert {path: path.read_bytes() for path in journals} == journals
    assert {"comparison.md", "layers.csv"} < {path.name for path in Path(output).iterdir()}
    assert whole == compared(found, "a", methods=methods)  # as if nothing had been stored
    assert [pair["why_not"] for pair in whole["pairs"] if pair["b"] == "dense"] == ["one of them is dense"] * 3
    with pytest.raises(ConfigError, match="holds magnitude with seed 0, not 1: choose another --output"):
        ran(seed=1)


def test_a_part_needs_methods_and_a_folder() -> None:
    for settings in ({"methods": ("dense",)}, {"output": "o"}):
        with pytest.raises(ConfigError, match="--part divides --methods among jobs that share one --output: give both"):
            CompareConfig(artifacts=("a", "b"), part="1/2", **settings)  # pyright: ignore


# -- an audit beside the artifact -------------------------------------------------------------------


def test_an_audit_that_follows_from_its_figures_is_shown(found: Path) -> None:
    digits = Path(__file__).parents[1] / "hubcards" / "digits"
    comparison = compare_masks(CompareConfig(artifacts=(str(digits), str(found / "b"))))
    report = AuditReport.model_validate_json((digits / "audit.json").read_text())
    entry = comparison.summary["compared"][0]
    assert entry["verdict"] == report.verdict
    assert entry["controls"] == {name: report.models[name].top1.value for name in report.controls}
    assert all(f"audit, {control}" in comparison.table for control in report.controls)


@pytest.mark.parametrize(
    "text", ['{"verdict": "jackpot"}', "{}", '{"verdict": NaN}', "[" * 100, "jackpot!", "another's"]
)
def test_any_other_audit_is_none(found: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(found / "a", tmp_path / "audited")
    digits = Path(__file__).parents[1] / "hubcards" / "digits" / "audit.json"
    (tmp_path / "audited" / "audit.json").write_text(digits.read_text() if text == "another's" else text)
    comparison = compare_masks(CompareConfig(artifacts=(str(tmp_path / "audited"), str(found / "b"))))
    entries = comparison.summary["compared"]
    assert [(entry["verdict"], entry["controls"]) for entry in entries] == [("not valid", {}), ("–", {})]


# -- the verb and its picture -----------------------------------------------------------------------


def test_the_verb_takes_names_as_they_stand(
    found: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse(CompareConfig, argv=["a", "b", "--criteria", "random", "magnitude"])
    assert (config.artifacts, config.criteria) == (("a", "b"), ("random", "magnitude"))
    monkeypatch.setattr(sys, "argv", ["compare", str(found / "a"), str(found / "b")])
    run_verb(main)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a", "b"]
    assert lines[1].split() == ["base", "digits_resnet.sklearn", "digits_resnet.sklearn"]
    assert len(json.loads(lines[-1])["pairs"]) == 1
    monkeypatch.setattr(sys, "argv", ["compare", str(found / "a"), "--criteria", "snip"])
    with pytest.raises(SystemExit) as stopped:
        run_verb(main)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: --criteria")
    assert printed.err.count("\n") == 1
    with pytest.raises(SystemExit):
        parse(CompareConfig, argv=["--help"])
    assert "Artifact folders, or names of Hub repos." in capsys.readouterr().out
    assert all(field.description for field in CompareConfig.model_fields.values())


@pytest.mark.parametrize(("layers", "masks"), [(1, 1), (20, 3), (60, 7)])
def test_the_picture_is_drawn_for_few_layers_and_many(layers: int, masks: int) -> None:
    others = {f"mask {i}": {f"l{k}.weight": (0.9, 0.8) for k in range(layers)} for i in range(masks)}
    assert overlap_figure("a", others) == overlap_figure("a", others)
    assert overlap_figure("a", others).startswith(b"\x89PNG")
