"""Image folders, tar files and data sets of the Hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from one_epoch import one_epoch
from pictures import CPU, ONE, equal, open_folder, picture, raises_data_error, small_net, write_split
from torch.utils.data import TensorDataset

from timm_jackpot.base import Base, load_base
from timm_jackpot.data import DataFlags, ImageSource, open_data, open_split
from timm_jackpot.data.hub_images import open_hub_data
from timm_jackpot.data.imagenet import Relabeled
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.open import hold_out
from timm_jackpot.data.read import known_labels
from timm_jackpot.errors import ConfigError, DataError


def test_small_images_are_held_in_memory_bit_for_bit(images_32: Path) -> None:
    data = open_folder(images_32, val_fraction=0)
    assert isinstance(data.test, MemoryImages)
    expected = [np.asarray(picture(label, number, 32)) for label in range(2) for number in range(3)]
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.name, len(data.train), data.num_classes) == ("folder", 20, 2)
    assert isinstance(data.train, MemoryImages)
    assert (data.train.hflip, data.train.crop_padding) == (0.5, 4)


def test_stratified_batches_hold_every_class_in_proportion(images_32: Path) -> None:
    plain, spread = (open_folder(images_32, val_fraction=0.2, stratify=stratify).train for stratify in (False, True))
    assert isinstance(spread, MemoryImages)
    total = spread.labels.bincount()

    def counts(source: ImageSource, epoch: int) -> list[list[int]]:
        batches = one_epoch(source, seed=0, epoch=epoch, batch_size=len(source) // 2, shard=ONE)
        return [batch.labels.bincount(minlength=2).tolist() for batch in batches]

    for epoch in range(8):
        assert all(
            abs(2 * found - whole) <= 3
            for batch in counts(spread, epoch)
            for found, whole in zip(batch, total, strict=True)
        )
    assert any(counts(plain, epoch) != counts(spread, epoch) for epoch in range(8))
    later = one_epoch(spread, seed=0, epoch=3, batch_size=4, shard=ONE, first=2)
    whole = list(one_epoch(spread, seed=0, epoch=3, batch_size=4, shard=ONE))
    assert equal(iter(whole[2:]), later)


def test_images_of_another_size_are_resized(images_32: Path) -> None:
    test = open_folder(images_32, small_net(size=16)).test
    images, _ = next(iter(test.eval_batches(batch_size=6, shard=ONE)))
    assert images.shape == (6, 3, 16, 16)


def test_a_part_of_train_is_held_out(images_32: Path) -> None:
    data = open_folder(images_32, val_fraction=0.25)
    whole = open_folder(images_32, val_fraction=0).train
    assert isinstance(data.train, MemoryImages)
    assert isinstance(data.val, MemoryImages)
    assert isinstance(whole, MemoryImages)
    kept, held_out = hold_out(20, 0.25)
    assert torch.equal(data.train.images, whole.images[kept])
    assert torch.equal(data.val.images, whole.images[held_out])
    assert torch.equal(data.val.labels, whole.labels[held_out])


def test_halves_in_memory_share_no_image_hold_out_of_themselves_and_have_as_many_of_each_class(images_32: Path) -> None:
    whole = open_folder(images_32, val_fraction=0).train
    assert isinstance(whole, MemoryImages)
    seen: list[bytes] = []
    for part in ("1/2", "2/2"):
        data, again = (open_folder(images_32, train_part=part, val_fraction=0.2) for _ in range(2))
        assert isinstance(data.train, MemoryImages)
        assert isinstance(data.val, MemoryImages)
        assert isinstance(again.train, MemoryImages)
        assert (len(data.train), len(data.val), len(data.test)) == (8, 2, 6)
        assert torch.equal(data.train.images, again.train.images)
        assert torch.cat([data.train.labels, data.val.labels]).bincount().tolist() == [5, 5]
        seen += [image.numpy().tobytes() for image in torch.cat([data.train.images, data.val.images])]
    assert sorted(seen) == sorted(image.numpy().tobytes() for image in whole.images)
    assert len(set(seen)) == 20


def test_a_part_goes_with_a_validation_split_of_its_own(images_32: Path) -> None:
    write_split(images_32, "validation", size=32, per_class=4)
    data = open_folder(images_32, train_part="1/4")
    assert data.val is not None
    assert (len(data.train), len(data.val)) == (5, 8)


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_validation_split_is_found(images_32: Path, name: str) -> None:
    write_split(images_32, name, size=32, per_class=4)
    data = open_folder(images_32)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (20, 8, 6)


def test_naming_the_default_test_split_changes_nothing_else(images_32: Path) -> None:
    write_split(images_32, "validation", size=32, per_class=4)
    named = open_folder(images_32, test_split="test")
    assert named.val is not None
    assert (len(named.train), len(named.val), len(named.test)) == (20, 8, 6)


def test_validation_is_tested_on_where_there_is_no_test_split(tmp_path: Path) -> None:
    write_split(tmp_path, "train", size=32, per_class=10)
    write_split(tmp_path, "validation", size=32, per_class=3)
    data = open_folder(tmp_path)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 6)


def test_named_splits_are_the_ones_that_are_read(images_32: Path) -> None:
    write_split(images_32, "tuning", size=32, per_class=5)
    data = open_folder(images_32, train_split="tuning", val_split="test", test_split="train")
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (10, 6, 20)


@pytest.mark.parametrize(
    "splits",
    [
        {"train_split": "test"},
        {"train_split": "testing"},
        {"test_split": "train"},
        {"test_split": "training"},
        {"train_split": "copy", "test_split": "test"},
        {"train_split": "test", "train_part": "1/2"},
    ],
)
def test_nothing_is_trained_on_the_split_that_is_tested_on(images_32: Path, splits: dict[str, str]) -> None:
    original = next(path for path in (images_32 / "test", images_32 / "test.tar") if path.exists())
    original.with_name(original.name.replace("test", "copy")).symlink_to(original)
    sentence = r"--train-split \w+ overlaps the test split \(\w+\): choose another split with --train"
    raises_data_error(sentence, lambda: open_folder(images_32, **splits))


def test_nothing_is_trained_or_chosen_on_the_validation_images_that_are_tested_on(tmp_path: Path) -> None:
    write_split(tmp_path, "train", size=32, per_class=4)
    write_split(tmp_path, "val", size=32, per_class=3)
    raises_data_error(r"--train-split eval overlaps", lambda: open_folder(tmp_path, train_split="eval"))
    raises_data_error(r"--val-split val overlaps .*--val-split or", lambda: open_folder(tmp_path, val_split="val"))
    write_split(tmp_path, "test", size=32, per_class=2)
    data = open_folder(tmp_path, train_split="validation")
    assert data.val is not None
    assert (len(data.train) + len(data.val), len(data.test)) == (6, 4)


def test_digits_are_not_trained_on_what_they_are_tested_on(digits_base: Base) -> None:
    for flags in (DataFlags(train_split="test"), DataFlags(test_split="train")):
        with pytest.raises(DataError, match="overlaps the test split"):
            open_data(flags, digits_base.model, device=CPU)


def test_a_folder_has_the_name_that_is_given_for_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_split(tmp_path, split, size=32, per_class=4)
    assert open_folder(tmp_path).name == "folder"
    assert open_folder(tmp_path, dataset_name="my flowers (32 px)").name == "my flowers (32 px)"


@pytest.mark.parametrize("name", ["", " ", "/data/flowers", "torch/cifar10", "a\nb", "x" * 101, "[a](b)", "`"])
def test_a_name_to_show_is_no_path_and_no_markup(name: str) -> None:
    with pytest.raises(ConfigError, match="give at most 100 letters, digits, spaces"):
        DataFlags(data_dir="d", dataset_name=name)


@pytest.mark.parametrize("flags", [{}, {"dataset": "torch/cifar10"}, {"dataset": "digits", "data_dir": "d"}])
def test_a_name_to_show_is_for_folders_alone(flags: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give it with --data-dir"):
        DataFlags(**flags, dataset_name="flowers")  # pyright: ignore[reportArgumentType]


def test_a_whole_folder_does_not_pass_for_a_split_that_it_lacks(tmp_path: Path) -> None:
    write_split(tmp_path, "train", size=32, per_class=4)
    for name in ("torch/image_folder", "image_folder"):
        with pytest.raises(DataError, match=r"has no folder test: add it, or choose another split with --test-split"):
            open_folder(tmp_path, dataset=name)


@pytest.mark.parametrize("flag", ["train_split", "val_split", "test_split"])
@pytest.mark.parametrize("path", ["/data/train", "train/", "../train", "..", ".", "", " ", "a\\b", "test\n", "test\0"])
def test_a_split_is_a_name_and_not_a_path(flag: str, path: str) -> None:
    with pytest.raises(ConfigError, match="a split is a name such as test, not a path: --data-dir says where"):
        DataFlags(**{flag: path})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "path", ["/data", "hfds//data", "hfds/../data", "hfds/~/data", "hfds/c:\\data", "hfds/c:/data", "a/\n", "", "a/"]
)
def test_a_data_set_is_a_name_and_not_a_path(path: str) -> None:
    with pytest.raises(ConfigError, match="a dataset is a name such as torch/cifar10 or hfds/user/name, not a path"):
        DataFlags(dataset=path)


def test_a_split_has_a_name_that_a_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than any file name"):
        DataFlags(test_split="é" * 126)
    write_split(tmp_path, "train", size=32, per_class=4)
    write_split(tmp_path, "test", size=32, per_class=2, tar=True)
    (tmp_path / "test.tar").rename(tmp_path / f"{'é' * 125}.tar")
    assert len(open_folder(tmp_path, test_split="é" * 125).test) == 4


def test_a_named_split_wins_over_its_synonyms(images_32: Path) -> None:
    write_split(images_32, "validation", size=32, per_class=4)
    write_split(images_32, "val", size=32, per_class=5)
    data = open_folder(images_32, val_split="val")
    assert data.val is not None
    assert len(data.val) == 10


def test_data_sets_of_torchvision_are_read_by_name(tmp_path: Path) -> None:
    for split, per_class in (("train", 10), ("test", 3), ("validation", 2)):
        write_split(tmp_path, split, size=32, per_class=per_class)
    data = open_folder(tmp_path, dataset="torch/image_folder")
    assert data.val is not None
    assert (data.name, len(data.train), len(data.val), len(data.test)) == ("torch/image_folder", 18, 2, 6)
    raises_data_error(
        "has 2 classes", lambda: open_folder(tmp_path, small_net(classes=3), dataset="torch/image_folder")
    )
    raises_data_error(
        "no split 'validation'", lambda: open_folder(tmp_path, dataset="torch/image_folder", val_split="validation")
    )


def test_hub_data_sets_need_no_validation_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the data sets of the Hub need the package datasets")
    for split, per_class in (("train", 10), ("test", 3)):
        write_split(tmp_path / "set", split, size=32, per_class=per_class)
    monkeypatch.chdir(tmp_path)
    data = open_folder(tmp_path / "cache", dataset="hfds/set")
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 6)
    images = open_hub_data("hfds/set", str(tmp_path / "cache")).read("train")
    listed = known_labels(images)
    assert listed.tolist() == [label for _, label in images] == [0] * 10 + [1] * 10
    swapped = Relabeled(images, [5, 3])
    assert known_labels(swapped).tolist() == [swapped[i][1] for i in range(len(swapped))]


def test_data_without_a_list_of_labels_are_halved_by_position() -> None:
    assert known_labels(TensorDataset(torch.ones(2))).tolist() == [0, 0]


def test_grey_bases_get_grey_images(images_32: Path) -> None:
    for flags in (DataFlags(data_dir=str(images_32)), DataFlags()):
        model = load_base("digits_resnet", in_chans=1, num_classes=2 if flags.data_dir else 10).model
        images, _ = next(iter(open_split(flags, None, model, device=CPU).eval_batches(batch_size=2, shard=ONE)))
        assert images.shape == (2, 1, 32, 32)
        assert model(images).shape[0] == 2
