"""Data that nobody named: ImageNet's classes by synset, and image data sets of the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from hub.client import ask, hub_environment
from hub.server import TestHub
from one_epoch import one_epoch
from PIL import Image
from safetensors.torch import save
from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from timm_jackpot.data import DataFlags, open_data, open_split
from timm_jackpot.data.default import dataset_name, default_data_notice
from timm_jackpot.data.hub_images import open_hub_data
from timm_jackpot.data.imagenet import imagenet_labels, is_imagenet_1k
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.errors import DataError
from timm_jackpot.runtime.processes import Shard

CPU = torch.device("cpu")
MINI = "timm/mini-imagenet"
# Three of mini-imagenet's classes (house finch, malamute, ear of corn) and their places in ImageNet-1k.
CLASSES = ("n01532829", "n02110063", "n13133613")
INDICES = (12, 249, 998)


def image_net(size: int = 32, classes: int = 1000) -> nn.Module:
    """timm's tiny ResNet with ImageNet-1k's head, for images of another size."""
    overlay = {"input_size": (3, size, size)}
    return timm.create_model("test_resnet.r160_in1k", num_classes=classes, pretrained_cfg_overlay=overlay)


def picture(label: int, number: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    pixels = np.random.default_rng(1000 * label + number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def labels_of(source: MemoryImages | LoaderImages | Any) -> list[int]:
    return [i for batch in source.eval_batches(batch_size=4, shard=Shard()) for i in batch.labels.tolist()]


# -- ImageNet by name -------------------------------------------------------------------------------


def test_synsets_stand_where_timm_has_them() -> None:
    info = ImageNetInfo("imagenet-1k")
    assert imagenet_labels(CLASSES) == list(INDICES)
    assert [info.index_to_label_name(index) for index in INDICES] == list(CLASSES)
    assert "house finch" in info.index_to_description(12)
    assert imagenet_labels(info.label_names()) == list(range(1000))


def test_names_that_are_no_synsets_are_not_mapped() -> None:
    assert imagenet_labels([]) is None
    assert imagenet_labels(["house finch"]) is None
    assert imagenet_labels([*CLASSES, "cat"]) is None
    assert imagenet_labels(["n00000000"]) is None


def test_a_head_of_imagenet_is_known_by_its_classes() -> None:
    assert is_imagenet_1k(image_net())
    assert not is_imagenet_1k(image_net(classes=10))
    assert not is_imagenet_1k(nn.Linear(2, 1000))
    assert not is_imagenet_1k(timm.create_model("cifar_resnet20"))
    names = ImageNetInfo().label_names()
    for labels, expected in ((names, True), (names[::-1], False), ([str(i) for i in range(1000)], False)):
        model = image_net()
        model.pretrained_cfg["label_names"] = labels  # pyright: ignore
        assert is_imagenet_1k(model) == expected


def test_what_is_taken_where_nothing_is_named() -> None:
    assert dataset_name(DataFlags(), image_net()) == f"hfds/{MINI}"
    assert dataset_name(DataFlags(data_dir="d"), image_net()) == "folder"
    assert dataset_name(DataFlags(dataset="torch/cifar10"), image_net()) == "torch/cifar10"
    assert dataset_name(DataFlags(), timm.create_model("cifar_resnet20")) == "torch/cifar10"
    with pytest.raises(DataError, match="no dataset given"):
        dataset_name(DataFlags(), image_net(classes=10))


def write_folder(root: Path, split: str, classes: Sequence[str], size: int) -> None:
    for label, name in enumerate(classes):
        (root / split / name).mkdir(parents=True)
        for number in range(2):
            picture(label, number, (size, size)).save(root / split / name / f"{number}.png")


@pytest.mark.parametrize(("size", "kind"), [(32, MemoryImages), (96, LoaderImages)])
def test_folders_named_by_synsets_keep_imagenets_indices(tmp_path: Path, size: int, kind: type) -> None:
    write_folder(tmp_path, "train", CLASSES, size)
    write_folder(tmp_path, "validation", CLASSES[:2], size)  # each split by its own names
    write_folder(tmp_path, "test", CLASSES[1:], size)
    data = open_data(DataFlags(data_dir=str(tmp_path), workers=1), image_net(size), device=CPU)
    assert isinstance(data.train, kind)
    assert data.num_classes == 1000
    assert labels_of(data.train) == [i for i in INDICES for _ in range(2)]
    assert labels_of(data.val) == [12, 12, 249, 249]
    assert labels_of(data.test) == [249, 249, 998, 998]
    alone = open_split(DataFlags(data_dir=str(tmp_path), workers=0), None, image_net(size), device=CPU)
    assert labels_of(alone) == [249, 249, 998, 998]
    if isinstance(data.train, LoaderImages):
        trained = one_epoch(data.train, seed=0, epoch=0, batch_size=6, shard=Shard())
        assert sorted(next(trained).labels.tolist()) == [i for i in INDICES for _ in range(2)]


def test_a_part_of_the_classes_needs_synsets_or_a_head_of_its_own(tmp_path: Path) -> None:
    write_folder(tmp_path / "words", "train", ("finch", "husky"), 32)
    write_folder(tmp_path / "words", "test", ("finch", "husky"), 32)
    with pytest.raises(DataError, match=r"2 classes, but the model's head has 1000.*--num-classes 2"):
        open_data(DataFlags(data_dir=str(tmp_path / "words")), image_net(), device=CPU)
    write_folder(tmp_path / "synsets", "train", CLASSES, 32)
    write_folder(tmp_path / "synsets", "test", CLASSES, 32)
    data = open_data(DataFlags(data_dir=str(tmp_path / "synsets")), image_net(classes=3), device=CPU)
    assert labels_of(data.test) == [0, 0, 1, 1, 2, 2]


# -- data sets of the Hub, read from a local copy ---------------------------------------------------


def parquet(rows: Mapping[str, Sequence[Any]]) -> bytes:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = BytesIO()
    writer.write_table(arrow.table(dict(rows)), file)
    return file.getvalue()


def image_repo(
    splits: Mapping[str, int],
    *,
    classes: Sequence[str] = CLASSES,
    size: tuple[int, int] = (80, 64),
    image: str = "image",
    labels: Sequence[str] = ("label",),
    card: bool = True,
    kind: str = "JPEG",
    hidden: str | None = None,
) -> dict[str, bytes]:
    """A data set repository as `Dataset.push_to_hub` lays it out; classes take turns, those of `hidden` are -1."""
    files = {}
    for split, n in splits.items():
        turns = [-1 if split == hidden else i % len(classes) for i in range(n)]
        images = [{"bytes": encoded(picture(i % len(classes), i, size), kind), "path": f"{i}"} for i in range(n)]
        rows = {image: images} | dict.fromkeys(labels, turns)
        files[f"data/{split}-00000-of-00001.parquet"] = parquet(rows)
    names = {"class_label": {"names": {str(i): name for i, name in enumerate(classes)}}}
    features = [{"name": image, "dtype": "image"}, *({"name": label, "dtype": names} for label in labels)]
    info: dict[str, Any] = {"features": features}
    if card:
        info["splits"] = [{"name": split, "num_bytes": 10_000_000, "num_examples": n} for split, n in splits.items()]
        info |= {"download_size": 100_000_000, "dataset_size": 150_000_000}
    patterns = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    front = {"dataset_info": info, "configs": [{"config_name": "default", "data_files": patterns}]}
    files["README.md"] = f"---\n{yaml.safe_dump(front)}---\n".encode()
    return files


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write a repository into a folder; the flags with which it is read."""
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def write(files: Mapping[str, bytes], **flags: Any) -> DataFlags:
        for name, content in files.items():
            path = tmp_path / "repo" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return DataFlags(dataset="hfds/repo", data_dir=str(tmp_path / "cache"), **flags)

    yield write
    open_hub_data.cache_clear()


@pytest.mark.parametrize("card", [True, False])
def test_splits_are_the_data_sets_own(local: Any, card: bool) -> None:
    flags = local(image_repo({"train": 6, "validation": 4, "test": 3}, card=card), workers=0)
    data = open_data(flags, image_net(96), device=CPU)
    assert isinstance(data.train, LoaderImages)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (6, 4, 3)
    assert labels_of(data.val) == [12, 249, 998, 12]
    assert next(data.test.eval_batches(batch_size=3, shard=Shard())).images.shape == (3, 3, 96, 96)


def test_a_validation_split_that_is_not_there_is_held_out(local: Any) -> None:
    flags = local(image_repo({"train": 10, "test": 3}, classes=("cat", "dog")), workers=0, val_fraction=0.2)
    data = open_data(flags, image_net(96, classes=2), device=CPU)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (8, 2, 3)
    assert labels_of(data.test) == [0, 1, 0]


def test_small_hub_images_are_held_in_memory(local: Any) -> None:
    files = image_repo({"train": 6, "test": 4}, size=(32, 32), image="img", kind="PNG", classes=("cat", "dog"))
    data = open_data(local(files, val_fraction=0), image_net(classes=2), device=CPU)
    assert isinstance(data.test, MemoryImages)
    expected = np.stack([np.asarray(picture(i % 2, i)) for i in range(4)])
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), expected)
    assert data.test.labels.tolist() == [0, 1, 0, 1]


def test_workers_read_hub_images(local: Any) -> None:
    flags = local(image_repo({"train": 6, "test": 4}), workers=2, val_fraction=0)
    model = image_net(96)
    two = open_data(flags, model, device=CPU).test
    none = open_data(flags.model_copy(update={"workers": 0}), model, device=CPU).test
    batches = [list(source.eval_batches(batch_size=2, shard=Shard())) for source in (two, none)]
    assert all(torch.equal(a.images, b.images) for a, b in zip(*batches, strict=True))


def test_a_part_of_a_split_can_be_named(local: Any) -> None:
    flags = local(image_repo({"train": 10, "test": 4}), train_split="train[:6]", val_split="train[6:]", workers=0)
    data = open_data(flags, image_net(96), device=CPU)
    assert data.val is not None
    assert (len(data.train), len(data.val)) == (6, 4)
    assert labels_of(data.val) == [12, 249, 998, 12]


@pytest.mark.parametrize("card", [True, False])
@pytest.mark.parametrize(
    "splits",
    [
        {"train_split": "test"},
        {"train_split": "test[:50%]"},
        {"train_split": "train[:1]+test[3:]"},
        {"test_split": "train[:3]"},
        {"train_split": "train[:6]", "test_split": "train[5:]"},
        {"train_split": "train[:6]", "test_split": "train[-50%:]"},
    ],
)
def test_no_part_of_what_is_tested_on_is_trained_on(local: Any, splits: dict[str, str], card: bool) -> None:
    flags = local(image_repo({"train": 10, "test": 4}, card=card), **splits)
    with pytest.raises(DataError, match=r"--train-split .* overlaps the test split"):
        open_data(flags, image_net(96), device=CPU)


def test_parts_of_one_split_that_share_nothing_may_be_trained_and_tested_on(local: Any) -> None:
    files = image_repo({"train": 10, "val": 4})
    flags = local(files, train_split="train[:60%]", test_split="train[6:]", workers=0)
    data = open_data(flags, image_net(96), device=CPU)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (6, 4, 4)
    flags = flags.model_copy(update={"test_split": "val[:1]"})
    data = open_data(flags, image_net(96), device=CPU)
    assert (len(data.train) + len(data.val or ()), len(data.test)) == (6, 1), "val, which is tested on, is not val"
    with pytest.raises(DataError, match=r"no split 'train\[x\]': parts of a split are written like train"):
        open_data(flags.model_copy(update={"train_split": "train[x]"}), image_net(96), device=CPU)


def test_two_label_columns_need_a_word(local: Any) -> None:
    files = image_repo({"train": 4, "test": 4}, classes=("cat", "dog"), labels=("fine", "coarse"))
    flags, model = local(files, workers=0), image_net(96, classes=2)
    with pytest.raises(DataError, match=r"columns image, fine, coarse: choose the label column with --target-key"):
        open_data(flags, model, device=CPU)
    assert len(open_data(flags.model_copy(update={"target_key": "fine"}), model, device=CPU).test) == 4
    for update, sentence in (
        ({"target_key": "exact"}, "has no column exact, only image, fine, coarse"),
        ({"target_key": "fine", "input_key": "coarse"}, "column coarse must hold images"),
    ):
        with pytest.raises(DataError, match=sentence):
            open_data(flags.model_copy(update=update), model, device=CPU)


def test_a_split_without_labels_is_refused(local: Any) -> None:
    flags = local(image_repo({"train": 4, "validation": 3, "test": 3}, hidden="test"), workers=0)
    with pytest.raises(DataError, match=r"split test of .* has images without labels: choose another split"):
        open_data(flags, image_net(96), device=CPU)
    assert len(open_data(flags.model_copy(update={"test_split": "validation"}), image_net(96), device=CPU).test) == 3


def test_a_missing_split_is_named_with_those_there_are(local: Any) -> None:
    flags = local(image_repo({"train": 4, "test": 3}), train_split="trian")
    with pytest.raises(DataError, match=r"no split 'trian', only train, test: choose another with --train-split"):
        open_data(flags, image_net(96), device=CPU)
    with pytest.raises(DataError, match=r"no split 'held', only train, test: choose another with --val-split"):
        open_data(
            DataFlags(dataset=flags.dataset, data_dir=flags.data_dir, val_split="held"), image_net(96), device=CPU
        )


def test_damaged_data_is_one_sentence(local: Any) -> None:
    files = image_repo({"train": 4, "test": 3})
    flags = local(files | {"data/train-00000-of-00001.parquet": b"nonsense"})
    with pytest.raises(DataError, match=r"could not be read \(Arrow\w+\): give --data-dir DIR with image folders"):
        open_data(flags, image_net(96), device=CPU)


# -- what keeps the data away -----------------------------------------------------------------------


def test_without_the_datasets_package_the_line_to_type_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    open_hub_data.cache_clear()
    sentence = re.escape("needs the datasets package: pip install datasets, or give --data-dir DIR")
    for call in (open_data, lambda flags, model, device: default_data_notice(flags, model)):
        with pytest.raises(DataError, match=sentence):
            call(DataFlags(), image_net(), device=CPU)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError("Couldn't reach 'x' on the Hub (LocalEntryNotFoundError)"), "the Hub cannot be reached"),
        (FileNotFoundError("Couldn't find 'x' on the Hugging Face Hub either: secret"), "the Hub cannot be reached"),
        (OSError("Not enough disk space. Needed: 15.68 GB"), "does not fit on this disk: set HF_HOME"),
        (OSError(28, "No space left on device"), "does not fit on this disk"),
        (ValueError("Config name is missing."), "several configurations"),
        (KeyError("secret"), r"could not be read \(KeyError\)"),
    ],
)
def test_failures_of_the_library_become_sentences(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    open_hub_data.cache_clear()
    with pytest.raises(DataError, match=sentence) as caught:
        open_hub_data("hfds/a/b", None)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("hfds/a/b ")
    open_hub_data.cache_clear()


# -- the user's own line, against the test Hub ------------------------------------------------------


def random_weights(name: str) -> bytes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save(timm.create_model(name).state_dict())


@pytest.fixture(scope="module")
def hub() -> Iterator[TestHub]:
    pytest.importorskip("datasets")
    with TestHub() as running:
        running.add_repo("timm/test_resnet.r160_in1k", {"model.safetensors": random_weights("test_resnet")})
        repo = image_repo({"train": 9, "validation": 5, "test": 4})
        running.add_repo(MINI, repo, repo_type="dataset")
        running.add_repo("bob/private", repo, repo_type="dataset", private=True)
        running.add_repo("bob/gated", repo, repo_type="dataset", gated=True)
        running.add_repo("bob/empty", {"README.md": b"nothing"}, repo_type="dataset")
        yield running


def run(hub: TestHub, home: Path, cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env={**hub_environment(hub, home), "OMP_NUM_THREADS": "2", **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def searched(
    hub: TestHub, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """HF_HOME, working folder and outcome of one search that names a model and nothing else."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("default")
    line = "accelerate.commands.launch -m timm_jackpot.search --model test_resnet --sparsity 0.9 --steps 1 -b 4"
    return home, folder, run(hub, home, folder, *line.split())


def test_a_model_alone_is_enough(searched: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    _, folder, done = searched
    result = last_json(done)
    assert result["dataset"] == f"hfds/{MINI}"
    assert result["model"] == "test_resnet.r160_in1k"
    assert (result["test_images"], result["steps"]) == (4, 1)
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-3)
    artifact = folder / result["artifact"]
    assert {"config.json", "masks.safetensors", "record.jsonl"} <= {path.name for path in artifact.iterdir()}
    record = [json.loads(line) for line in (artifact / "record.jsonl").read_text().splitlines()]
    assert [event["n"] for event in record if event["kind"] == "validation"] == [5]


def test_one_line_says_what_it_costs_before_anything_is_fetched(
    searched: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:
    _, _, done = searched
    lines = [line for line in done.stderr.splitlines() if line.startswith(("no dataset", "search: step"))]
    assert lines[0] == (
        "no dataset given: using hfds/timm/mini-imagenet, a part of ImageNet (9 train, 5 validation, 4 test images; "
        "0.1 GB to download, 0.2 GB on disk); steps: 1 (fewer with --steps N; the time left shows after the first few)"
        "; --data-dir or --dataset choose other data"
    )
    assert "\r" not in done.stderr
    assert "Generating" not in done.stderr
    assert len(lines) == 2


def test_evaluate_reads_the_same_images_without_a_network(
    hub: TestHub, searched: tuple[Path, Path, subprocess.CompletedProcess[str]]
) -> None:
    home, folder, done = searched
    result = last_json(done)
    asked = len(hub.requests)
    words = ["timm_jackpot.evaluate", "--artifact", result["artifact"], "-b", "4"]
    found = last_json(run(hub, home, folder, *words, HF_HUB_OFFLINE="1"))
    assert (found["n"], found["top1"]) == (4, result["jackpot_top1"])
    assert len(hub.requests) == asked


@pytest.mark.slow
def test_what_the_hub_does_not_give_out_is_one_sentence(hub: TestHub, tmp_path: Path) -> None:
    closed = (
        "is not on the Hub, or is private or gated: check the name, or ask for access and log in with `hf auth login`"
    )
    expected = {
        "hfds/bob/private": closed,
        "hfds/bob/gated": closed,
        "hfds/bob/nothing": closed,
        "hfds/bob/empty": "could not be read (EmptyDatasetError): give --data-dir DIR with image folders instead",
        "hfds/no+name": "is not the name of a Hub dataset: expected hfds/user/name",
    }
    code = f"""
        from timm_jackpot.data.hub_images import open_hub_data
        from timm_jackpot.errors import DataError
        def look_up(name):
            try:
                return list(open_hub_data(name, None).splits)
            except DataError as error:
                return str(error)
        answers.update((name, look_up(name)) for name in {list(expected)})
    """
    assert ask(hub, tmp_path, code) == {name: f"{name} {text}" for name, text in expected.items()}
    mine = ask(hub, tmp_path, code, token=hub.allow("bob/private", "carol", repo_type="dataset"))
    assert mine["hfds/bob/private"] == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("words", "env", "sentence"),
    [
        ("", {"HF_HUB_OFFLINE": "1"}, f"hfds/{MINI} could not be fetched: the Hub cannot be reached"),
        pytest.param(
            "--dataset hfds/bob/private",
            {},
            "hfds/bob/private is not on the Hub, or is private or gated",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_search_without_its_data_leaves_nothing_behind(
    hub: TestHub, tmp_path: Path, words: str, env: dict[str, str], sentence: str
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(random_weights("test_resnet"))
    (tmp_path / "cwd").mkdir()
    command = f"timm_jackpot.search --model test_resnet --base-checkpoint {weights} --steps 1 {words}"
    done = run(hub, tmp_path / "home", tmp_path / "cwd", *command.split(), **env)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert os.listdir(tmp_path / "cwd") == []


@pytest.mark.slow
def test_the_line_of_the_readme(hub: TestHub, tmp_path: Path) -> None:
    hub.add_repo("timm/resnet50.a1_in1k", {"model.safetensors": random_weights("resnet50")})
    line = "accelerate.commands.launch -m timm_jackpot.search --model resnet50 --sparsity 0.9 --steps 1 -b 4"
    (tmp_path / "cwd").mkdir()
    result = last_json(run(hub, tmp_path / "home", tmp_path / "cwd", *line.split()))
    assert result["dataset"] == f"hfds/{MINI}"
    assert result["model"] == "resnet50.a1_in1k"
    assert (tmp_path / "cwd" / result["artifact"] / "masks.safetensors").stat().st_size == result["mask_bytes"]
