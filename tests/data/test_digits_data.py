"""The digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pictures import CPU, ONE

from timm_jackpot.base import Base
from timm_jackpot.data import DataFlags, open_data, open_split
from timm_jackpot.data import digits as digits_module
from timm_jackpot.data.digits import digits_split
from timm_jackpot.data.memory import MemoryImages


def test_digits_have_their_sizes_and_labels() -> None:
    images, labels = digits_split("train")
    assert (len(images), len(labels)) == (1198, 1198)
    assert (images.dtype, tuple(images.shape[1:])) == (torch.uint8, (3, 32, 32))
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) == set(range(10))
    assert len(digits_split("test")[1]) == 599


def test_digits_are_those_of_scikit_learn_split_in_two() -> None:
    from sklearn.datasets import load_digits

    train, test = digits_split("train"), digits_split("test")
    digits: Any = load_digits()
    assert test[1].tolist() == digits.target[::3].tolist()
    assert train[1].tolist() == [int(label) for i, label in enumerate(digits.target) if i % 3]
    with np.load(Path(digits_module.__file__).with_name("digits.npz")) as file:
        assert (file["images"] == digits.images).all()
    in_train = {image.numpy().tobytes() for image in train[0]}
    assert not in_train & {image.numpy().tobytes() for image in test[0]}


def test_digits_are_what_their_base_is_run_on(digits_base: Base) -> None:
    data = open_data(DataFlags(), digits_base.model, device=CPU)
    assert (data.name, data.num_classes) == ("digits", 10)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (1078, 120, 599)
    whole = open_data(DataFlags(val_fraction=0), digits_base.model, device=CPU)
    assert (len(whole.train), whole.val) == (1198, None)
    assert isinstance(whole.train, MemoryImages)
    assert (whole.train.hflip, whole.train.crop_padding) == (0.0, 2)
    flipped = open_data(DataFlags(hflip=0.25, crop_padding=0), digits_base.model, device=CPU).train
    assert isinstance(flipped, MemoryImages)
    assert (flipped.hflip, flipped.crop_padding) == (0.25, 0)


def test_the_bundled_base_reads_digits(digits_base: Base) -> None:
    test = open_split(DataFlags(), None, digits_base.model, device=CPU)
    with torch.inference_mode():
        hits = sum(
            int((digits_base.model(x).argmax(1) == y).sum()) for x, y in test.eval_batches(batch_size=256, shard=ONE)
        )
    assert hits / 599 > 0.98
