"""Every recipe that comes with the package: its settings are sound, and it runs on made-up data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from timm_jackpot.artifact import from_pretrained, read_artifact, read_ticket
from timm_jackpot.cli import parse
from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.rivals import RivalsConfig, compare_rivals, plan_rivals
from timm_jackpot.experiments.sweeps import SweepConfig, plan_grid, run_sweep
from timm_jackpot.experiments.sweeps.published import published_figures
from timm_jackpot.experiments.transfer import TransferConfig, plan_transfer, transfer_masks
from timm_jackpot.recipes import package_folder, read_recipe, recipe_names
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.training.finetune import FinetuneConfig, finetune_jackpot
from timm_jackpot.training.pretrain import PretrainConfig, pretrain_base

pytestmark = pytest.mark.usefixtures("few_digits")

NAMES = recipe_names()
SWEEPS = [name for name in NAMES if {"grid", "cells"} & read_recipe(name).keys()]
OF_SEARCHES = [name for name in SWEEPS if name != "ticket_audit"]  # that one: tests/test_ticket_audit.py
PRETRAINS = [name for name in NAMES if name.endswith("_pretrain")]
FINETUNES = [name for name in NAMES if name.endswith("_finetune")]
TRANSFERS = [name for name in NAMES if "targets" in read_recipe(name)]
RIVALS = [name for name in NAMES if "rivals" in read_recipe(name)]
SEARCHES = [name for name in NAMES if name not in {*SWEEPS, *PRETRAINS, *FINETUNES, *TRANSFERS, *RIVALS}]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two made-up images of each of five classes, train and test."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "test"):
        for label in "abcde":
            (folder / split / label).mkdir(parents=True)
            for i in range(2):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    return folder


def random_weights(model: str, path: Path, **arguments: int) -> Path:
    torch.manual_seed(0)
    state = timm.create_model(model, **arguments).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def small(images: Path) -> list[str]:
    words = ["--dataset", "folder", "--batch-size", "4", "--workers", "0", "--steps", "2", "--val-fraction", "0"]
    return [*words, "--data-dir", str(images)]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_its_command_cost_and_what_to_expect(name: str) -> None:
    text = (package_folder("recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    comment = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert text.startswith("#")
    assert f" --recipe {name}" in comment
    assert "Cost" in comment
    assert "xpected" in comment


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_recipe_runs_on_made_up_data(name: str, images: Path, tmp_path: Path) -> None:
    config = parse(SearchConfig, argv=["--recipe", name])
    stand_in = "test_vit" if "deit" in config.model else "test_resnet"
    weights = random_weights(stand_in, tmp_path / "base.safetensors")
    words = ["--recipe", name, *small(images), "--model", stand_in, "--base-checkpoint", str(weights)]
    size = ["--img-size", "160"] if stand_in == "test_vit" else ["--img-size", "64"]
    output = ["--num-classes", "5", "--output", str(tmp_path / "j")]
    result = search_jackpot(parse(SearchConfig, argv=[*words, *size, *output]))
    assert result.jackpot.masks.sparsity == pytest.approx(float(config.sparsity), abs=1e-4)
    assert from_pretrained(tmp_path / "j", base_checkpoint=weights) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_recipe_runs_in_its_own_architecture(name: str, images: Path, tmp_path: Path) -> None:
    config = parse(SearchConfig, argv=["--recipe", name])
    model = config.model.partition(".")[0]
    weights = random_weights(model, tmp_path / "base.safetensors")
    words = ["--recipe", name, *small(images), "--model", model, "--base-checkpoint", str(weights)]
    output = ["--num-classes", "5", "--output", str(tmp_path / "j")]
    assert search_jackpot(parse(SearchConfig, argv=[*words, *output])).summary["steps"] == 2


@pytest.mark.parametrize("name", PRETRAINS)
def test_a_pretrain_recipe_runs_on_made_up_data(name: str, images: Path, tmp_path: Path) -> None:
    words = ["--recipe", name, *small(images), "--num-classes", "5", "--output", str(tmp_path / "base")]
    summary = pretrain_base(parse(PretrainConfig, argv=words))
    assert summary["steps"] == 2
    assert (tmp_path / "base" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", OF_SEARCHES)
def test_every_cell_of_a_sweep_is_a_search_and_the_first_runs(name: str, images: Path, tmp_path: Path) -> None:
    cells = plan_grid(SweepConfig(sweep=name, output=str(tmp_path)))
    assert len({cell.name for cell in cells}) == len(cells) > 1
    for config in (cells[0], cells[-1])[: 2 if name == "fig2_random_init" else 1]:
        search = next(iter(config.searches.values()))
        model = "test_resnet"
        fixed = {
            "model": model,
            "dataset": "folder",
            "data_dir": images,
            "num_classes": 5,
            "img_size": 64,
            "steps": 2,
            "batch_size": 4,
            "workers": 0,
            "val_fraction": 0,
        }
        if search.pretrained:
            fixed["base_checkpoint"] = random_weights(model, tmp_path / "base.safetensors")
        fixed |= {key: value for key, value in config.axes.items() if key in ("sparsity", "preset", "criterion")}
        grid = tuple(f"{key}={value}" for key, value in {"pretrained": search.pretrained, **fixed}.items())
        summary = run_sweep(SweepConfig(sweep=name, grid=grid, seeds=(0,), output=str(tmp_path / config.name)))
        assert summary["runs"] == 1


def test_table_4_runs_the_published_epochs_on_both_networks() -> None:
    published = {row.cell.get("epochs", row.cell.get("steps")) for row in published_figures("table4_epochs")}
    cells = plan_grid(SweepConfig(sweep="table4_epochs", output="unused"))
    for model in ("cifar10_resnet32x2", "cifar10_vgg19"):
        axes = [cell.axes for cell in cells if cell.axes["model"] == f"local-dir:bases/{model}"]
        run = {axis.get("epochs", axis.get("steps")) for axis in axes}
        assert run == published == {0, 10, 30, 60, 100, 300, 500, 1000}


def test_table_3_runs_the_published_epochs_and_those_of_the_abstract() -> None:
    published = {row.cell["epochs"] for row in published_figures("table3_imagenet") if row.method is None}
    cells = plan_grid(SweepConfig(sweep="table3_imagenet", output="unused"))
    assert {cell.axes["epochs"] for cell in cells} == {10, *published} == {10, 30, 60}


@pytest.mark.parametrize("name", FINETUNES)
def test_a_finetune_recipe_runs_on_made_up_data(name: str, images: Path, tmp_path: Path) -> None:
    weights = random_weights("test_resnet", tmp_path / "base.safetensors", num_classes=5)
    base = {"model": "test_resnet", "base_checkpoint": str(weights), "img_size": 64, "num_classes": 5}
    data = {"dataset": "folder", "data_dir": str(images), "batch_size": 4, "workers": 0, "val_fraction": 0.0}
    search_jackpot(SearchConfig(**base, **data, steps=1, sparsity="0.8", output=str(tmp_path / "j")))  # pyright: ignore
    words = ["--recipe", name, *small(images), "--artifact", str(tmp_path / "j"), "--base-checkpoint", str(weights)]
    summary = finetune_jackpot(parse(FinetuneConfig, argv=[*words, "--output", str(tmp_path / "tuned")]))
    assert summary["sparsity"] >= read_artifact(tmp_path / "j").masks.sparsity
    tuned = timm.create_model("test_resnet", pretrained=False, num_classes=5)
    timm.models.load_checkpoint(tuned, str(tmp_path / "tuned" / "model.safetensors"))
    state = dict(tuned.named_parameters())
    masks = read_artifact(tmp_path / "j").masks
    assert all(not state[layer][~mask].any() for layer, mask in masks.items()), "removed weights stay zero"
    dense = dict(from_pretrained(tmp_path / "j", base_checkpoint=weights).named_parameters())
    assert any(not torch.equal(state[layer], dense[layer]) for layer in masks), "kept weights move"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFERS)
def test_a_transfer_recipe_runs_on_made_up_data(
    name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # Accelerate's after every fit: most of the time of a tiny cell
    plan = plan_transfer(TransferConfig(transfer=name, output=str(tmp_path)))
    sizes = {"steps": 2, "head_steps": 2, "batch_size": 4, "workers": 0, "val_fraction": 0}
    data = {"model": "test_resnet", "img_size": 32, "dataset": "folder", "data_dir": images, "num_classes": 5}
    config = TransferConfig(
        transfer=name,
        base_checkpoint=str(random_weights("test_resnet", tmp_path / "base.safetensors")),
        settings=tuple(f"{key}={value}" for key, value in {**sizes, **data}.items()),
        seeds=(0,),
        output=str(tmp_path / "out"),
    )
    summary = transfer_masks(config).summary
    assert summary["sources"] == len(plan.sources)
    rows = summary["matrix"]
    assert summary["cells"] == len(rows) * len(plan.targets)
    assert {"dense", *plan.sources} < rows.keys()
    assert (tmp_path / "out" / "matrix.png").read_bytes().startswith(b"\x89PNG")


# -- sweeps -----------------------------------------------------------------------------------------


def recipe(folder: Path, text: str) -> str:
    (folder / "sweep.yaml").write_text(text)
    return str(folder / "sweep.yaml")


def test_a_sweep_goes_on_where_it_stopped_and_tells_all_in_one_table(tmp_path: Path) -> None:
    text = 'steps: 2\nbatch_size: 32\ngrid: {sparsity: ["0.5", "0.9"]}\nseeds: [0, 1]\n'
    config = SweepConfig(sweep=recipe(tmp_path, text), output=str(tmp_path / "out"))
    assert run_sweep(config.model_copy(update={"seeds": (0,)})) | {"table": ""} == {
        "cells": 2,
        "runs": 2,
        "skipped": 0,
        "table": "",
    }
    artifact = read_artifact(tmp_path / "out" / "sparsity-0.9" / "seed0")
    written = (tmp_path / "out" / "sparsity-0.9" / "seed0" / "config.json").stat().st_mtime_ns
    assert run_sweep(config)["skipped"] == 2
    assert (tmp_path / "out" / "sparsity-0.9" / "seed0" / "config.json").stat().st_mtime_ns == written
    rows = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert len(rows) == 5
    assert artifact.masks.hash() in rows[3]
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert len(table) == 4
    assert table[2].startswith(f"| 0.5 | {artifact.config.info['results']['dense_top1']:.2f} |")
    assert table[2].endswith("| 2 |")
    assert (tmp_path / "out" / "picture.png").read_bytes().startswith(b"\x89PNG")

    with pytest.raises(
        ConfigError, match=r"out holds sparsity-0\.5/seed0 with steps 2, not 3: choose another --output"
    ):
        run_sweep(config.model_copy(update={"grid": ("steps=3",)}))


def test_a_sweep_trains_tickets_beside_searches(tmp_path: Path) -> None:
    text = "dataset: digits\nsteps: 2\nbatch_size: 64\ngrid: {method: [static_random, magnitude]}\n"
    config = SweepConfig(sweep=recipe(tmp_path, text), seeds=(0,), output=str(tmp_path / "out"))
    assert run_sweep(config)["skipped"] == 0
    ticket = read_ticket(tmp_path / "out" / "method-static-random" / "seed0")
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    names = [name.strip() for name in table[0].split("|")]
    rows = [dict(zip(names, (value.strip() for value in line.split("|")), strict=True)) for line in table[2:]]
    assert [row["method"] for row in rows] == ["static_random", "magnitude"]
    for key, name in {"top1": "ticket", "validation_top1": "ticket on held-out images"}.items():
        assert (rows[0][name], rows[1][name]) == (f"{ticket.results[key]:.2f}", "–")
    assert (rows[0]["jackpot"], rows[1]["epochs in all"]) == ("–", "–")
    assert float(rows[0]["epochs in all"]) == pytest.approx(sum(ticket.spent.epochs.values()), abs=0.01)
    assert str(tmp_path) not in (tmp_path / "out" / "table.csv").read_text()
    assert run_sweep(config)["skipped"] == 2


@pytest.mark.parametrize(
    ("text", "grid", "sentence"),
    [
        ("grid: [1, 2]", (), "grid must map settings to lists"),
        ("grid: {sparsity: [0.5, 2]}", (), "cell sparsity-2: --sparsity 2: "),
        ("grid: {nonsense: [1]}", (), "unknown setting nonsense"),
        ("grid: {seed: [1]}", (), "sets seed itself"),
        ("steps: 2", ("sparsity",), "--grid takes name=value, not 'sparsity'"),
    ],
)
def test_a_grid_that_is_none_is_refused_before_anything_runs(
    tmp_path: Path, text: str, grid: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_sweep(SweepConfig(sweep=recipe(tmp_path, text), grid=grid, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_sweep_of_more_searches_than_anybody_runs_is_refused_before_it_is_built(tmp_path: Path) -> None:
    text = "grid:\n" + "".join(f"  k{i}: [1, 2, 3, 4]\n" for i in range(40))
    with pytest.raises(ConfigError, match=f"names {3 * 4**40} searches: the limit is 10000"):
        plan_grid(SweepConfig(sweep=recipe(tmp_path, text), output="x"))


@pytest.mark.parametrize(
    "text",
    ["cells: [{1: 2}]", "grid: {1: [2]}", "seeds: 5", "seeds: [a]", "seeds: [0, 0]", "grid: {steps: []}"],
)
def test_a_sweep_recipe_of_wrong_types_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        plan_grid(SweepConfig(sweep=recipe(tmp_path, text), output="x"))


def test_a_cell_of_many_settings_is_a_folder_still(tmp_path: Path) -> None:
    values = ", ".join(f'"{letter * 120}"' for letter in "ab")
    cells = plan_grid(
        SweepConfig(sweep=recipe(tmp_path, f"grid: {{model: [{values}], dataset: [{values}]}}"), output="x")
    )
    assert len({cell.name for cell in cells}) == 4
    assert max(len(cell.name) for cell in cells) < 200


# -- what is no recipe ------------------------------------------------------------------------------

BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['lol'] * 9)}]\n" for i in range(9))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize("key", ["self", "cls", "values", "__init__"])
def test_a_key_of_any_name_is_no_setting_unless_it_is_one(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting {key}"):
        plan_grid(SweepConfig(sweep=recipe(tmp_path, f"{key}: 1\nseeds: [0]\n"), output="x"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr: " + "[" * 1000 + "]" * 1000, "nested too deeply"),
        ("lr: " + "[" * 40 + "]" * 40, "nested too deeply"),
        (BOMB, "too large or nested too deeply"),
        ("lr: &a [*a]", "too large or nested too deeply"),
        (MERGES, "not valid YAML"),
        ("x: " + "y" * 200_000, "too long: settings have at most 100,000 characters"),
        ("steps: " + "9" * 5000, "not valid YAML"),
        ("lr: 2020-13-45", "not valid YAML"),
        ("lr: {", "not valid YAML"),
    ],
)
def test_yaml_that_no_settings_are_like_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_recipe(recipe(tmp_path, text))


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_a_rivals_recipe_runs_on_made_up_data(name: str, images: Path, tmp_path: Path) -> None:
    plan = plan_rivals(RivalsConfig(rivals=name, output=str(tmp_path)))
    steps = {"rivals_cifar10": 12, "fig7_tuning": 2}.get(name, 1)  # tickets are pruned in rounds
    sizes = {"steps": steps, "tune_steps": 1, "batch_size": 4, "workers": 0, "val_fraction": 0.5, "model_kwargs": "[]"}
    data = {"model": "digits_resnet", "img_size": 32, "dataset": "folder", "num_classes": 5}
    task = next(task for task in plan.tasks if task != "digits")
    config = RivalsConfig(
        rivals=name,
        tasks=(task,),
        base_checkpoint=(f"{task}={random_weights('digits_resnet', tmp_path / 'base.safetensors')}",),
        data_dir=(f"{task}={images}",),
        settings=tuple(f"{key}={value}" for key, value in {**sizes, **data}.items()),
        seeds=(0,),
        output=str(tmp_path / "out"),
    )
    result = compare_rivals(config)
    assert [row["rival"] for row in result.rows] == [rival.name for rival in plan.tasks[task]]
    assert (tmp_path / "out" / f"{plan.table}.png").read_bytes().startswith(b"\x89PNG")
