"""Masks of one set on another: what is planned, what a judge may move, and what becomes of a cell that fails."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from test_processes import started
from torch import nn

from timm_jackpot.artifact import read_artifact
from timm_jackpot.base import Base, norm_statistics
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.errors import BaseMismatchError, ConfigError, DataError, TrainingError
from timm_jackpot.experiments.transfer import TransferConfig, plan_transfer, run, targets, transfer_masks
from timm_jackpot.experiments.transfer.plan import HeadRule
from timm_jackpot.experiments.transfer.rows import transfer_rows
from timm_jackpot.experiments.transfer.table import matrix_means, matrix_table
from timm_jackpot.experiments.transfer.targets import evaluate_mask, open_target
from timm_jackpot.masks import MaskSet
from timm_jackpot.plots import transfer_figure
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.training import fit
from timm_jackpot.transfer import main

pytestmark = pytest.mark.usefixtures("few_digits")

SMALL = "dataset: digits\nsteps: 1\nbatch_size: 64\nval_fraction: 0\nhead_steps: 2\nseeds: [0]\n"
TINY = SMALL.replace("digits", "folder\nnum_classes: 2\nworkers: 0").replace("64", "4")


def recipe(folder: Path, text: str, **settings: Any) -> TransferConfig:
    (folder / "transfer.yaml").write_text(text)
    return TransferConfig(transfer=str(folder / "transfer.yaml"), output=str(folder / "out"), **settings)


def write_images(root: Path, classes: str, size: int = 32, per_class: int = 8) -> str:
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in classes:
            (root / split / label).mkdir(parents=True)
            for i in range(per_class):
                pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return str(root)


# -- the plan ---------------------------------------------------------------------------------------


def test_what_the_paper_transfers_between_can_be_said(tmp_path: Path) -> None:
    text = """
sparsity: "0.8"
steps: 7
head_lr: 0.3
targets:
  digits: {dataset: digits}
  other: {dataset: folder, data_dir: there, num_classes: 3, epochs: 2}
sources:
  half-1: {data: digits, train_part: 1/2}
  adam: {data: other, opt: adam, lr: 0.001}
  uniform: {data: digits, allocation: uniform}
  third: {dataset: folder}
"""
    folders = ("third=elsewhere", "other=here")
    plan = plan_transfer(recipe(tmp_path, text, data_dir=folders, base_checkpoint="w.safetensors", seeds=(3, 4)))
    assert plan.seeds == (3, 4)
    assert (plan.head.head_steps, plan.head.head_lr) == (100, 0.3)
    assert list(plan.sources) == ["half-1", "adam", "uniform", "third", "digits", "other"]
    assert all(list(by_seed) == [3, 4] for by_seed in plan.sources.values())
    first = {name: by_seed[3] for name, by_seed in plan.sources.items()}
    assert {(s.seed, s.sparsity, s.base_checkpoint) for s in first.values()} == {(3, "0.8", "w.safetensors")}
    assert (first["half-1"].train_part, first["half-1"].dataset, first["half-1"].steps) == ("1/2", "digits", 7)
    adam = first["adam"]
    assert (adam.opt, adam.lr, adam.num_classes, adam.data_dir, adam.steps, adam.epochs) == (
        "adam", 0.001, 3, "here", None, 2.0,
    )  # fmt: skip
    assert first["uniform"].allocation == "uniform"
    assert first["third"].data_dir == "elsewhere"
    own = {(source, target) for source in plan.sources for target in plan.targets if plan.is_own(source, target)}
    assert own == {("digits", "digits"), ("other", "other")}


def test_a_source_that_is_the_targets_own_search_is_not_searched_twice(tmp_path: Path) -> None:
    plan = plan_transfer(recipe(tmp_path, "targets: {digits: }\nsources: {whole: {data: digits}}\n"))
    assert list(plan.sources) == ["whole"]
    assert plan.is_own("whole", "digits")


def test_flags_beat_the_recipe_wherever_it_has_the_setting(tmp_path: Path) -> None:
    text = "steps: 5\ntargets: {digits: {dataset: digits, epochs: 3}}\nsources: {a: {data: digits, lr: 0.5}}\n"
    settings = ("steps=9", "lr=0.25", "head-steps=4", "exclude=[layer1.*]")
    plan = plan_transfer(recipe(tmp_path, text, settings=settings, seeds=(0,)))
    for searches in (*plan.sources.values(), *plan.targets.values()):
        assert (searches[0].steps, searches[0].epochs, searches[0].lr) == (9, None, 0.25)
        assert searches[0].exclude == ("layer1.*",)
    assert plan.head.head_steps == 4


@pytest.mark.parametrize(
    ("text", "flags", "sentence"),
    [
        ("steps: 2", {}, "names no targets"),
        ("seeds: 3\ntargets: {digits: }", {}, "seeds must be a list of integers"),
        ("targets: {digits: }", {"seeds": (0, 1, 0)}, "seeds contains duplicates"),
        ("targets: [digits]", {}, "targets must map names to settings"),
        ("targets: {digits: 3}", {}, "targets must map names to settings"),
        ("targets: {d: }\nsources: {a: {data: e}}", {}, "source a: data e is not a target: choose from d"),
        ("targets: {d: }\nsources: {a: {nonsense: 1}}", {}, "source a: unknown setting nonsense"),
        ("targets: {d: {sparsity: 2}}", {}, "target d: --sparsity 2: "),
        ("targets: {d: {model: resnet18}}", {}, "target d sets model: a transfer has one base for all its masks"),
        ("targets: {d: }\nsources: {a: {in_chans: 1}}", {}, "source a sets in_chans"),
        ("targets: {d: }\nsources: {a: {seed: 1}}", {}, "source a sets seed: a transfer sets that itself"),
        ("seed: 1\ntargets: {d: }", {}, "sets seed: a transfer sets that itself"),
        ("targets: {d: }", {"settings": ("output=x",)}, "sets output: a transfer sets that itself"),
        ("targets: {d: {mask_classifier: true}}", {}, "target d: mask_classifier: every target gets a new head"),
        ("pretrained: false\ntargets: {d: }", {}, "masks need the same base"),
        ("targets: {dense: }", {}, "'target dense': a name has up to 40 letters"),
        ("targets: {../x: }", {}, "'target ../x': a name has up to 40 letters"),
        ("targets: {d: }\nsources: {random: }", {}, "'source random': a name has"),
        ("targets: {d: }\nsources: {d: {lr: 1}}", {}, "source d differs from the own search of target d"),
        ("head_steps: 0\ntargets: {d: }", {}, "--head-steps 0: input should be greater"),
        ("head_size: 3\ntargets: {d: }", {}, "unknown setting head_size"),
        ("targets: {d: }", {"data_dir": ("e=x",)}, "--data-dir names e, which is neither a target nor a source"),
        ("targets: {d: }", {"data_dir": ("x",)}, "--data-dir takes name=value, not 'x'"),
        ("targets: {d: }", {"settings": ("steps",)}, "--set takes name=value, not 'steps'"),
        ("targets: {d: }", {"settings": ("steps=[",)}, "not valid YAML"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_before_anything_runs(
    tmp_path: Path, text: str, flags: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        transfer_masks(recipe(tmp_path, text, **flags))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("classes", "count", "sentence"),
    [
        ("a", 1, "target images has 1 class: at least two are needed"),
        ("abc", 2, "target images: split train of folder has 3 classes, but the model's head has 2"),
        ("ab", 2, "target images has 16 training images, fewer than one batch"),
    ],
)
def test_a_target_that_cannot_be_judged_on_is_refused_before_anything_runs(
    tmp_path: Path, classes: str, count: int, sentence: str
) -> None:
    folder = write_images(tmp_path / "images", classes)
    text = f"{SMALL}targets:\n  digits:\n  images: {{dataset: folder, num_classes: {count}}}\n"
    with pytest.raises(DataError, match=sentence):
        transfer_masks(recipe(tmp_path, text, data_dir=(f"images={folder}",)))
    assert not (tmp_path / "out").exists()


# -- the judge --------------------------------------------------------------------------------------


def checkerboard(base: Base) -> MaskSet:
    weights = {name: base.model.get_parameter(name) for name in ("layer1.0.conv1.weight", "layer2.0.conv1.weight")}
    return MaskSet({n: (torch.arange(w.numel()) % 2 == 0).reshape(w.shape) for n, w in weights.items()})


def test_the_head_alone_is_trained_from_the_same_start_under_every_mask(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_target("digits", SearchConfig(dataset="digits", batch_size=64), accelerator)
    before = {name: tensor.clone() for name, tensor in target.base.model.state_dict().items()}
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def watched(*, model: nn.Module, **others: Any) -> None:
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fit(model=model, **others)
        seen.append((start, {name: tensor.clone() for name, tensor in model.state_dict().items()}))

    monkeypatch.setattr(targets, "fit", watched)
    masks, rule = checkerboard(target.base), HeadRule(head_steps=3)
    figures = [
        evaluate_mask(target, m, rule, seed, accelerator) for m, seed in ((masks, 0), (MaskSet({}), 0), (masks, 1))
    ]
    again = evaluate_mask(target, masks, rule, 0, accelerator)
    assert again == figures[0]
    assert {f.n for f in figures} == {120}

    heads = [start["fc.weight"] for start, _ in seen]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], before["fc.weight"])
    statistics = set(norm_statistics(target.base.model))
    for (start, end), mask in zip(seen, (masks, MaskSet({}), masks, masks), strict=True):
        assert all(torch.equal(end[name], start[name]) for name in statistics), "fixed while the head is trained"
        assert all(not torch.equal(start[name], before[name]) for name in statistics), "re-estimated before"
        moved = {name for name in end if not torch.equal(end[name], before[name])} - statistics
        assert {n for n in moved if not n.endswith("num_batches_tracked")} == {"fc.weight", "fc.bias", *mask}
        for name, kept in mask.items():
            assert torch.equal(end[name], before[name] * kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.base.model.state_dict().items())


def test_controls_have_the_layer_counts_of_the_sources(tmp_path: Path, digits_base: Base) -> None:
    for name, allocation in (("g", "global"), ("h", "global"), ("u", "uniform")):
        search_jackpot(SearchConfig(steps=0, allocation=allocation, output=str(tmp_path / name)))
    found = {name: {0: read_artifact(tmp_path / name)} for name in ("g", "h", "u")}
    rows = {row.name: row for row in transfer_rows(found, digits_base)}
    assert list(rows) == ["g", "h", "u", "dense"] + [f"{c} (as {s})" for s in "gu" for c in ("magnitude", "random")]
    for source in "gu":
        mask, magnitude, random = (
            rows[name].masks[0] for name in (source, f"magnitude (as {source})", f"random (as {source})")
        )
        assert random.kept_per_layer() == magnitude.kept_per_layer() == mask.kept_per_layer()
        assert magnitude == mask  # a search of no steps
        assert random != mask
    alone = transfer_rows({"g": found["g"]}, digits_base)
    assert [row.name for row in alone] == ["g", "dense", "magnitude", "random"]

    layer = "layer1.0.conv1.weight"
    other = {**digits_base.tensors, layer: digits_base.tensors[layer]._replace(sha256="0" * 64)}
    with pytest.raises(BaseMismatchError, match=f"the mask of g .* found on another base: {layer} differs first"):
        transfer_rows(found, dataclasses.replace(digits_base, tensors=other))


# -- the whole --------------------------------------------------------------------------------------


def test_a_matrix_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{TINY}targets: {{first: , second: {{train_part: 2/2}}}}\nsources: {{first: {{data: first}}}}\n"
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # Accelerate's after every fit: most of the time of a tiny cell
    folder = write_images(tmp_path / "images", "ab")
    config = recipe(tmp_path, text, data_dir=(f"first={folder}", f"second={folder}"))
    out = tmp_path / "out"

    def fails_once(target: Any, masks: MaskSet, *others: Any) -> Any:
        if target.name == "second" and not masks:
            raise TrainingError("the loss is not a number at step 1")
        return evaluate_mask(target, masks, *others)

    monkeypatch.setattr(run, "evaluate_mask", fails_once)
    with pytest.raises(
        TrainingError, match=r"1 of 10 cells failed; the first was dense on second, seed 0: the loss is not"
    ):
        transfer_masks(config)
    assert "| dense | " in (out / "matrix.md").read_text()
    assert (out / "matrix.md").read_text().count("| – |") == 1
    kept = {k: e for k, e in json.loads((out / "cells.json").read_text()).items() if e["result"] is not None}
    assert len(kept) == 9

    monkeypatch.setattr(run, "evaluate_mask", evaluate_mask)
    summary = transfer_masks(config).summary
    assert (summary["skipped_searches"], summary["skipped_cells"], summary["cells"]) == (2, 9, 10)
    complete = json.loads((out / "cells.json").read_text())
    assert {key: complete[key] for key in kept} == kept
    assert set(complete) - set(kept) == {"dense on second, seed 0"}
    rows = list(csv.DictReader((out / "matrix.csv").read_text().splitlines()))
    assert [(row["row"], row["target"]) for row in rows if row["own"] == "True"] == [
        ("first", "first"),
        ("second", "second"),
    ]
    assert {row["row"]: row["kind"] for row in rows} == {
        "first": "source", "second": "source", "dense": "control", "magnitude": "control", "random": "control",
    }  # fmt: skip
    assert (out / "matrix.png").read_bytes().startswith(b"\x89PNG")
    assert "–" not in (out / "matrix.md").read_text()

    with pytest.raises(ConfigError, match="out holds first on first, seed 0 with head_steps 2, not 3: choose an"):
        transfer_masks(config.model_copy(update={"settings": ("head_steps=3",)}))
    with pytest.raises(ConfigError, match="out holds sources/first/seed0 with steps 1, not 2: choose another --output"):
        transfer_masks(config.model_copy(update={"settings": ("steps=2",)}))
    (out / "cells.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cells.json is damaged: delete it"):
        transfer_masks(config)


def test_a_matrix_in_parts_is_the_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    text = f"{TINY}targets: {{first: , second: {{train_part: 2/2}}}}\nsources: {{first: {{data: first}}}}\n"
    folder = write_images(tmp_path / "images", "ab")
    config = recipe(tmp_path, text, data_dir=(f"first={folder}", f"second={folder}"))
    parts = [config.model_copy(update={"part": f"{number}/2"}) for number in (1, 2)]
    with pytest.raises(TrainingError, match="1 searches of other parts are not finished: run this part again when"):
        transfer_masks(parts[0])
    assert transfer_masks(parts[1]).summary["left_to_other_parts"] == 5
    assert transfer_masks(parts[0]).summary["left_to_other_parts"] == 0
    assert not (tmp_path / "out" / "matrix.md").exists()
    summary = transfer_masks(config).summary
    assert (summary["skipped_searches"], summary["skipped_cells"], summary["cells"]) == (2, 10, 10)
    whole = transfer_masks(config.model_copy(update={"output": str(tmp_path / "whole")}))
    assert whole.summary["matrix"] == summary["matrix"]


BOTH = """
import json, os, sys
from pathlib import Path
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.experiments.transfer import TransferConfig, transfer_masks

def main():
    result = transfer_masks(parse(TransferConfig, argv=sys.argv[2:]))
    (Path(sys.argv[1]) / f"found{os.environ['RANK']}").write_text(json.dumps([result.cells, result.table]))
    return result.summary

run_verb(main)
"""


@pytest.mark.multiprocess
@pytest.mark.slow
def test_two_processes_agree_on_a_matrix_like_that_of_one(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", "ab")
    config = recipe(tmp_path, f"{TINY}data_dir: {folder}\ntargets: {{a: , b: {{train_part: 2/2}}}}\n")
    words = ["--recipe", config.transfer, "--output", config.output, "--set", "batch_size=2"]
    with started(2, ["-c", BOTH, str(tmp_path), *words]) as processes:
        ended = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    (cells, table), other = (json.loads((tmp_path / f"found{rank}").read_text()) for rank in range(2))
    assert other == [cells, table]
    assert json.loads(ended[0][0])["cells"] == len(cells) == 10
    assert [out for out, _ in ended[1:]] == [""]
    assert ended[0][1].count("transfer: cell") == 10
    assert "transfer: " not in ended[1][1]
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "sources", "runs.json", "cells.json", "matrix.csv", "matrix.md", "matrix.png",
    }  # fmt: skip
    assert (out / "matrix.md").read_text() == table

    alone = transfer_masks(config.model_copy(update={"output": str(tmp_path / "alone")})).cells
    told = ("row", "kind", "target", "own", "seed", "test_images", "sparsity")
    assert [{key: cell[key] for key in told} for cell in cells] == [{key: cell[key] for key in told} for cell in alone]
    controls = [[cell["mask_hash"] for cell in found if cell["kind"] == "control"] for found in (cells, alone)]
    assert controls[0] == controls[1]
    with pytest.raises(ConfigError, match="out holds a on a, seed 0 with processes 2, not 1: choose another --output"):
        transfer_masks(config.model_copy(update={"settings": ("batch_size=2",)}))


def made_up(row: str, target: str, top1: float, *, seed: int = 0, own: bool = False) -> dict[str, Any]:
    kind = "control" if row in ("dense", "random") else "source"
    return {"row": row, "kind": kind, "target": target, "own": own, "seed": seed, "top1": top1, "test_images": 50}


@pytest.mark.usefixtures("drawn_pictures")
def test_the_matrix_tells_mean_spread_own_mask_and_gaps() -> None:
    cells = [made_up("a", "x", 80.0, own=True), made_up("a", "x", 82.0, seed=1, own=True)]
    cells += [made_up("a", "y", 30.0), made_up("random", "x", 10.0)]
    means = matrix_means(cells)
    assert means["a"]["x"] == {"mean": 81.0, "std": pytest.approx(2**0.5), "n": 2}
    assert means["a"]["y"] == {"mean": 30.0, "std": None, "n": 1}
    lines = matrix_table(cells, HeadRule()).splitlines()
    assert lines[0] == "| mask | on x | on y |"
    assert lines[2:4] == ["| a | **81.00 ± 1.41** | 30.00 |", "| random | 10.00 | – |"]
    assert "over 2 seeds; test images: x 50, y 50" in lines[5]
    assert transfer_figure(cells).startswith(b"\x89PNG")
    assert transfer_figure(cells) == transfer_figure(cells)
    assert transfer_figure(cells) != transfer_figure(cells[:-1])


def test_the_verb_prints_the_matrix_and_json_and_one_sentence_of_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path, f"{TINY}data_dir: {write_images(tmp_path / 'images', 'ab')}\ntargets: {{set: }}\n")
    words = ["transfer", "--recipe", str(tmp_path / "transfer.yaml"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    run_verb(main)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| mask | on set |"
    assert json.loads(lines[-1])["matrix"]["set"]["set"]["n"] == 1
    monkeypatch.setattr(sys, "argv", [*words, "--data-dir", "x=y"])
    with pytest.raises(SystemExit) as stopped:
        run_verb(main)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert printed.err == "error: --data-dir names x, which is neither a target nor a source: choose from set\n"


def test_every_flag_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(TransferConfig, argv=["--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("--recipe", "--base-checkpoint", "--data-dir", "--set", "--seeds", "--output"))
    assert all(field.description for field in TransferConfig.model_fields.values())
