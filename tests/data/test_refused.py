"""What is refused, or left out and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from one_epoch import one_epoch
from pictures import CPU, ONE, memory_images, open_folder, raises_data_error, small_net, write_split
from torch import nn

from timm_jackpot.base import Base
from timm_jackpot.data import DataFlags, ImageSource, open_data
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.errors import ConfigError


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    raises_data_error(r"data folder .*nowhere does not exist", lambda: open_folder(tmp_path / "nowhere"))


def test_a_folder_data_set_needs_a_folder() -> None:
    raises_data_error("need --data-dir", lambda: open_data(DataFlags(dataset="folder"), small_net(), device=CPU))


def test_a_fold_that_the_digits_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="the digits are digits, digits/2, digits/3"):
        DataFlags(dataset="digits/4")


@pytest.mark.parametrize("name", ["hfids/user/name", "tfds/mnist", "wds/imagenet"])
def test_what_timm_streams_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"every image exactly once: use hfds/user/name, .* or a folder"):
        DataFlags(dataset=name)


def test_missing_splits_are_named(images_32: Path) -> None:
    raises_data_error(r"no split 'trian'.*--train-split", lambda: open_folder(images_32, train_split="trian"))
    raises_data_error(r"no split 'final'.*--test-split", lambda: open_folder(images_32, test_split="final"))
    raises_data_error(r"no split 'held'.*--val-split", lambda: open_folder(images_32, val_split="held"))


def test_a_folder_without_anything_to_test_on_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "train", size=32, per_class=2)
    raises_data_error("has no split test or validation", lambda: open_folder(tmp_path))


def test_another_number_of_classes_than_the_head_has_is_refused(images_32: Path) -> None:
    sentence = r"split train of folder has 2 classes, but the model's head has 5.*--num-classes 2"
    raises_data_error(sentence, lambda: open_folder(images_32, small_net(classes=5)))


def test_the_classes_of_the_validation_split_are_checked_too(images_32: Path) -> None:
    write_split(images_32, "validation", size=32, per_class=2, classes="abc")
    raises_data_error("split validation of folder has 3 classes", lambda: open_folder(images_32))


def test_splits_with_other_class_names_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "train", size=32, per_class=2, classes="ab")
    write_split(tmp_path, "test", size=32, per_class=2, classes="bc")
    raises_data_error("classes", lambda: open_folder(tmp_path))


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_split(tmp_path, "test", size=32, per_class=2)
    raises_data_error("train holds no images in class folders", lambda: open_folder(tmp_path))


def test_a_damaged_tar_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tar").write_bytes(b"not a tar file" * 100)
    write_split(tmp_path, "test", size=32, per_class=2)
    raises_data_error(r"train\.tar", lambda: open_folder(tmp_path))


@pytest.mark.parametrize("size", [64, 224])
def test_digits_are_refused_where_the_model_wants_larger_images(size: int) -> None:
    model = small_net(classes=10, size=size)
    raises_data_error(
        f"digits are 32-pixel images.*needs {size}", lambda: open_data(DataFlags(dataset="digits"), model, device=CPU)
    )


def test_digits_have_two_splits_only(digits_base: Base) -> None:
    flags = DataFlags(val_split="validation")
    raises_data_error("digits has no split 'validation'", lambda: open_data(flags, digits_base.model, device=CPU))


def test_a_model_without_data_of_its_own_needs_some() -> None:
    raises_data_error(
        "no dataset given, and test_resnet has no default", lambda: open_data(DataFlags(), small_net(), device=CPU)
    )
    plain: Any = nn.Linear(2, 2)
    plain.num_classes = 2
    raises_data_error("this model has no default", lambda: open_data(DataFlags(), plain, device=CPU))


def test_both_kinds_of_source_offer_the_same_methods(loaded: LoaderImages) -> None:
    sources: list[ImageSource] = [memory_images(), loaded]
    for source in sources:
        batch = next(iter(one_epoch(source, seed=0, epoch=0, batch_size=2, shard=ONE)))
        assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
        assert len(batch.images) == len(batch.labels) == 2
