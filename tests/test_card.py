"""Cards: rendered from the artifact alone, true, harmless, and the released ones byte for byte."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from matplotlib.figure import Figure

from timm_jackpot.artifact import from_pretrained, read_artifact
from timm_jackpot.data import DataFlags, open_split
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.hub import render_card
from timm_jackpot.hub.card import default_repo_name
from timm_jackpot.masks import MaskSet
from timm_jackpot.plots import mask_figure, search_figure
from timm_jackpot.training import Record, read_record

RELEASED = sorted(path.parent for path in (Path(__file__).parents[1] / "hubcards").glob("*/config.json"))


def pictures(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.glob("plots/*.png")))


def test_something_is_released() -> None:
    assert [folder.name for folder in RELEASED] == ["digits"]


@pytest.mark.parametrize("folder", RELEASED, ids=lambda f: f.name)
def test_released_cards_are_what_the_template_makes_of_the_artifact(folder: Path) -> None:
    card = render_card(read_artifact(folder), pictures=pictures(folder))
    assert card == (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", RELEASED, ids=lambda f: f.name)
def test_released_jackpots_load_and_are_worth_what_their_cards_say(folder: Path, accelerator: Accelerator) -> None:
    model = from_pretrained(folder)
    split = open_split(DataFlags(), None, model, device=accelerator.device)
    found = evaluate_accuracy(model, split, batch_size=128, accelerator=accelerator)
    claimed = read_artifact(folder).config.info["results"]
    assert found.n == claimed["test_images"]
    assert found.top1 == pytest.approx(claimed["jackpot_top1"], abs=0.5)  # another machine may round otherwise


@pytest.mark.usefixtures("drawn_pictures")
@pytest.mark.parametrize("folder", RELEASED, ids=lambda f: f.name)
def test_pictures_come_from_the_record_alone(folder: Path) -> None:
    picture = search_figure(read_record(folder / "record.jsonl"))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_layers_stand_below_their_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(import_module("timm_jackpot.plots.search_figure"), "to_png", lambda f: figures.append(f) or b"")
    names = ["conv1", "layer1.0.conv1", "layer1.1.conv2", "patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc1"]
    record = Record()
    record.write("layers", names=[f"{name}.weight" for name in names], kept=[1] * 6, total=[4] * 6)
    search_figure(record)  # of a one-shot mask: nothing was trained
    (bars,) = figures[0].axes
    shown = ["conv1", "layer1", "0.conv1", "1.conv2", "patch_embed.proj", "blocks.0", "attn.qkv", "mlp.fc1"]
    assert [label.get_text() for label in bars.get_yticklabels()] == shown
    assert [bar.get_width() for bar in bars.patches] == [75.0] * 6  # pyright: ignore


@pytest.mark.parametrize("kept", [0, 5, 12])
def test_the_mask_picture_shows_the_largest_layer(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(import_module("timm_jackpot.plots.mask_figure"), "to_png", lambda f: figures.append(f) or b"")
    weights = {"small.weight": torch.ones(2, 2), "large.weight": torch.arange(12.0).view(3, 2, 1, 2)}
    masks = {"small.weight": torch.ones(2, 2, dtype=torch.bool), "large.weight": weights["large.weight"] >= 12 - kept}
    mask_figure(MaskSet(masks), weights)
    view, counts = figures[0].axes
    assert (view.images[0].get_array() == masks["large.weight"].flatten(1).numpy()).all()
    assert figures[0].get_suptitle() == f"large, the largest layer: {kept} of 12 weights kept"
    # The mask is the magnitude mask: its threshold stands below everything that is kept.
    assert [line.get_xdata()[0] for line in counts.get_lines()] == ([11.0 - kept] if kept == 5 else [])  # pyright: ignore


def test_a_record_without_a_search_draws_nothing() -> None:
    with pytest.raises(ValueError, match="no finished search"):
        search_figure(Record())


def _metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_metadata_is_what_the_hub_reads() -> None:
    card = render_card(read_artifact(RELEASED[0]), repo_id="alice/x")
    metadata = _metadata(card)
    assert metadata["library_name"] == "timm-jackpot"
    assert {"timm", "pruning", "lottery-ticket", "sparsity"} <= set(metadata["tags"])
    assert metadata["license"] == "apache-2.0"
    result = metadata["model-index"][0]["results"][0]["metrics"][0]
    assert result["value"] == round(read_artifact(RELEASED[0]).config.info["results"]["jackpot_top1"], 2)
    assert "base_model" not in metadata  # the digits network is on no Hub
    assert 'from_pretrained("alice/x")' in card


def _edited(tmp_path: Path, **info: object):
    folder = tmp_path / "edited"
    folder.mkdir()
    for name in ("masks.safetensors", "extras.safetensors"):
        (folder / name).write_bytes((RELEASED[0] / name).read_bytes())
    config = json.loads((RELEASED[0] / "config.json").read_text())
    config["info"] = info
    (folder / "config.json").write_text(json.dumps(config))
    return read_artifact(folder)


def test_what_was_not_measured_reads_as_a_dash(tmp_path: Path) -> None:
    card = render_card(_edited(tmp_path, results={"jackpot_top1": 91.5, "dataset": "digits"}))
    assert "| dense base | – |" in card
    assert "| **jackpot** | **91.50** |" in card
    assert "come from a single search" in card


def test_where_nothing_was_measured_there_is_no_table_and_no_word_of_figures(tmp_path: Path) -> None:
    card = render_card(_edited(tmp_path))
    assert "has not been evaluated" in card
    for word in ("dense base |", "read once", "one search", "accuracy", "## Results"):
        assert word not in card.split("## Citation")[0]
    assert "model-index" not in _metadata(card)


@pytest.mark.parametrize("text", ["http://evil.example/x", "www.evil.example", "a@evil.example", "evil.example/x"])
def test_an_address_in_free_text_is_no_link(tmp_path: Path, text: str) -> None:
    results = {"dataset": text, "device": text, "jackpot_top1": 91.5}
    artifact = _edited(tmp_path, results=results)
    reasons = json.loads((artifact.folder / "config.json").read_text())
    reasons["dense"][0]["reason"] = text
    (artifact.folder / "config.json").write_text(json.dumps(reasons))
    page = render_card(read_artifact(artifact.folder)).split("---\n", 2)[2]
    assert page.count("evil.example") == 3
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", page, flags=re.DOTALL)
    assert "evil" not in outside


def test_free_text_of_an_artifact_cannot_write_into_the_card(tmp_path: Path) -> None:
    evil = "x\n---\n<script>alert(1)</script>[a](javascript:b)`"
    settings = {"dataset": evil, "lr\nrm": 1, "model": "$(rm -rf /)"}
    card = render_card(_edited(tmp_path, results={"dataset": evil, "device": evil}, config=settings))
    assert "<script>" not in card
    assert "](javascript" not in card
    assert "$(" not in card
    assert card.count("\n---\n") == 1


def test_the_command_names_what_differs_from_the_defaults(tmp_path: Path) -> None:
    card = render_card(_edited(tmp_path, config={"preset": "paper", "lr": 0.0, "mask_classifier": True, "base": None}))
    command = re.search(r"```bash\n(.*?)\n```", card, re.DOTALL)
    assert command is not None
    words = command[1].replace("\\\n", " ").split()
    assert words == [
        "accelerate",
        "launch",
        "-m",
        "timm_jackpot.search",
        "--preset",
        "paper",
        "--lr",
        "0.0",
        "--mask-classifier",
    ]


def test_a_folder_is_called_by_the_name_that_was_given_for_it(tmp_path: Path) -> None:
    name = "CIFAR-10 (JPEG)"
    card = render_card(
        _edited(tmp_path, results={"jackpot_top1": 91.5, "dataset": name}, config={"dataset_name": name})
    )
    assert f"on the test split of `{name}` (n = " in card
    assert "--data-dir FOLDER" in card
    assert f"--dataset-name '{name}'" in card
    assert _metadata(card)["model-index"][0]["results"][0]["dataset"]["name"] == name


def test_a_folder_without_a_name_is_one_of_images(tmp_path: Path) -> None:
    card = render_card(_edited(tmp_path, results={"jackpot_top1": 91.5, "dataset": "folder"}))
    assert "on the test split of an image folder (n = " in card
    assert "--data-dir FOLDER" in card


def test_default_repo_name() -> None:
    assert default_repo_name(read_artifact(RELEASED[0])) == "digits_resnet.sklearn-jackpot-0.9"
