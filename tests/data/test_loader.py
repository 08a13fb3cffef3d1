"""Larger images, through a DataLoader."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_epoch import one_epoch
from pictures import ONE, by_label, equal, open_folder, picture, small_net, write_split
from PIL import Image, features
from torch import Tensor

from timm_jackpot.data import steps_per_epoch
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.open import data_config
from timm_jackpot.data.read import known_labels
from timm_jackpot.errors import DataError
from timm_jackpot.runtime.processes import Shard


def test_larger_images_go_through_a_loader(images_100: Path) -> None:
    data = open_folder(images_100, small_net(size=96), val_fraction=0.25, workers=0)
    assert isinstance(data.train, LoaderImages)
    assert isinstance(data.val, LoaderImages)
    assert (len(data.train), len(data.val), len(data.test)) == (9, 3, 4)
    assert not set(data.train.indices.tolist()) & set(data.val.indices.tolist())
    images, labels = next(data.test.eval_batches(batch_size=4, shard=ONE))
    assert images.shape == (4, 3, 96, 96)
    assert labels.tolist() == [0, 0, 1, 1]


def test_halves_that_are_loaded_share_no_image(images_100: Path) -> None:
    parts = [open_folder(images_100, small_net(size=96), train_part=f"{k}/2", val_fraction=0.5) for k in (1, 2)]
    seen = [source.indices.tolist() for data in parts for source in (data.train, data.val)]  # pyright: ignore
    assert [len(indices) for indices in seen] == [3, 3, 3, 3]
    assert sorted(index for indices in seen for index in indices) == list(range(12))
    assert {index % 2 for index in seen[0] + seen[1]} == {0}
    assert known_labels(parts[0].train.dataset).tolist() == [0] * 6 + [1] * 6  # pyright: ignore


def test_worker_processes_change_nothing(images_100: Path) -> None:
    model = small_net(size=96)
    none, two = (open_folder(images_100, model, workers=workers, val_fraction=0.25) for workers in (0, 2))
    kwargs = {"batch_size": 3, "shard": ONE}
    assert equal(one_epoch(none.train, seed=1, epoch=1, **kwargs), one_epoch(two.train, seed=1, epoch=1, **kwargs))
    assert equal(none.test.eval_batches(**kwargs), two.test.eval_batches(**kwargs))


def test_the_same_workers_read_every_epoch(images_100: Path) -> None:
    data = open_folder(images_100, small_net(size=96), workers=2, val_fraction=0.25)
    batches = data.train.train_batches(seed=1, batch_size=3, shard=ONE, first=1)
    workers = []
    for _ in range(7):  # of three in an epoch
        next(batches)
        workers.append({child.pid for child in multiprocessing.active_children()})
    assert len(workers[0]) == 2
    assert workers == [workers[0]] * 7
    batches.close()  # pyright: ignore
    assert not multiprocessing.active_children()


def test_loaded_training_batches_are_a_function_of_seed_and_epoch(loaded: LoaderImages) -> None:
    once = lambda seed, epoch: one_epoch(loaded, seed=seed, epoch=epoch, batch_size=4, shard=ONE)  # noqa: E731
    first = list(once(0, 0))
    torch.rand(3)
    assert equal(iter(first), once(0, 0))
    assert not equal(iter(first), once(0, 1))
    assert not equal(iter(first), once(1, 0))


def test_loaded_shards_see_the_same_augmented_images_as_one(loaded: LoaderImages) -> None:
    source = dataclasses.replace(loaded, dataset=Numbered(loaded.dataset))
    halves = [one_epoch(source, seed=1, epoch=1, batch_size=2, shard=Shard(rank, 2)) for rank in (0, 1)]
    whole = one_epoch(source, seed=1, epoch=1, batch_size=4, shard=ONE)
    steps = list(zip(*halves, whole, strict=True))
    assert len(steps) == 2
    for first, second, both in steps:
        together, expected = by_label(first) | by_label(second), by_label(both)
        assert set(together) == set(expected)
        assert all(torch.equal(image, expected[label]) for label, image in together.items())


class Numbered:
    """A data set whose labels are positions, so that a batch tells which samples it holds."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.dataset[position][0], position


def test_loaded_evaluation_covers_every_image_once_over_three_shards(loaded: LoaderImages) -> None:
    source = dataclasses.replace(loaded, dataset=Numbered(loaded.dataset))
    seen = [
        position
        for rank in range(3)
        for batch in source.eval_batches(batch_size=2, shard=Shard(rank, 3))
        for position in batch.labels.tolist()
    ]
    assert sorted(seen) == loaded.indices.tolist()


class Damaged:
    """Small images that tell their own number; only those at a few positions can be read."""

    def __init__(self, readable: set[int]) -> None:
        self.readable = readable

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        if position not in self.readable:
            raise OSError("truncated")
        return Image.new("RGB", (4, 4), (position,) * 3), position


def damaged(readable: set[int]) -> LoaderImages:
    whole = lambda image: torch.from_numpy(np.array(image.crop((0, 0, 4, 4)))).permute(2, 0, 1).float()  # noqa: E731
    return LoaderImages(Damaged(readable), torch.arange(3, 24), whole, whole, 0, torch.device("cpu"))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_without_a_readable_image_is_still_a_batch(batch_size: int, count: int) -> None:
    """Ranks that take fewer steps than others would read another epoch; and so would a run that goes on."""
    readable = {5, 6}
    source = damaged(readable)
    read = lambda rank, first=0: list(  # noqa: E731
        one_epoch(source, seed=1, epoch=0, batch_size=batch_size, shard=Shard(rank, count), first=first)
    )
    steps = steps_per_epoch(len(source), batch_size, Shard(0, count))
    for rank in range(count):
        batches = read(rank)
        assert len(batches) == steps
        assert all(set(batch.labels.tolist()) <= readable and len(batch.labels) for batch in batches)
        assert equal(iter(batches[1:]), iter(read(rank, first=1)))
    assert 0 < len(source.unreadable.names) <= len(source) - len(readable)
    nothing = damaged(set())
    with pytest.raises(DataError, match="none of the 21 training images can be read"):
        list(one_epoch(nothing, seed=1, epoch=0, batch_size=batch_size, shard=ONE))


def test_one_sample_is_augmented_alike_wherever_it_stands_in_a_batch(loaded: LoaderImages) -> None:
    one, three = views(loaded, seed=5, epoch=0, batch_size=1), views(loaded, seed=5, epoch=0, batch_size=3)
    assert one.keys() == three.keys()
    assert all(torch.equal(image, three[label]) for label, image in one.items())


@pytest.mark.parametrize(("seed", "epoch"), [(5, 1), (6, 0)])
def test_a_sample_is_augmented_otherwise_in_another_epoch_or_run(loaded: LoaderImages, seed: int, epoch: int) -> None:
    first, other = views(loaded, seed=5, epoch=0), views(loaded, seed=seed, epoch=epoch)
    assert not any(torch.equal(image, other[label]) for label, image in first.items())


def image_that_raises(kind: type[Exception]) -> bytes:
    """An image file of 32 pixels, damaged so that PIL raises an error of this kind."""
    file = BytesIO()
    picture(0, 0, 32).save(file, {RuntimeError: "AVIF", NotImplementedError: "DDS"}.get(kind, "BMP"))
    content = bytearray(file.getvalue())
    if kind is RuntimeError:
        start = content.index(b"mdat") + 4
        content[start : start + 16] = bytes(16)
    elif kind is NotImplementedError:
        content[80:88] = struct.pack("<I4s", 4, b"NONE")  # pixels in a format that nobody knows
    else:
        content[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(content)


@pytest.mark.parametrize("kind", [Image.DecompressionBombError, RuntimeError, NotImplementedError])
@pytest.mark.parametrize("size", [32, 96])
def test_whatever_a_decoder_raises_an_image_is_left_out_and_counted(
    tmp_path: Path, kind: type[Exception], size: int
) -> None:
    for split in ("train", "test"):
        write_split(tmp_path, split, size=size, per_class=3)
    if kind is RuntimeError and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    content = image_that_raises(kind)
    with pytest.raises(kind), Image.open(BytesIO(content)) as image:
        image.load()
    (tmp_path / "test" / "a" / "1.png").write_bytes(content)
    data = open_folder(tmp_path, small_net(size=size), workers=0)
    labels = [label for batch in data.test.eval_batches(batch_size=2, shard=ONE) for label in batch.labels.tolist()]
    assert labels == [0, 0, 1, 1, 1]
    assert [Path(name).name for name in data.unreadable.names] == ["1.png"]
    with pytest.raises(DataError, match=r"1\.png cannot be read \(.+\): repair or remove it"):
        list(
            open_folder(tmp_path, small_net(size=size), workers=0, strict=True).test.eval_batches(
                batch_size=2, shard=ONE
            )
        )


@pytest.mark.parametrize("dataset", ["folder", "torch/image_folder"])
def test_pipes_and_devices_are_no_images(tmp_path: Path, dataset: str) -> None:
    for split in ("train", "test"):
        write_split(tmp_path, split, size=32, per_class=3)
    pipe = tmp_path / "test" / "a" / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "test" / "b" / "device.png").symlink_to(os.devnull)
    rescue = threading.Timer(10, lambda: pipe.open("wb").close())  # whoever waits at the pipe goes on, and fails here
    rescue.start()
    with pytest.raises(DataError, match=r"cannot be read \(not a file\)"):
        open_folder(tmp_path, dataset=dataset, strict=True)
    rescue.cancel()
    data = open_folder(tmp_path, dataset=dataset)
    assert (len(data.test), len(data.unreadable.names)) == (6, 2)


def views(source: LoaderImages, *, seed: int, epoch: int, batch_size: int = 1) -> dict[int, Tensor]:
    """Every sample of an epoch as the model sees it, by position."""
    numbered = dataclasses.replace(source, dataset=Numbered(source.dataset))
    batches = one_epoch(numbered, seed=seed, epoch=epoch, batch_size=batch_size, shard=ONE)
    return {label: image for batch in batches for label, image in by_label(batch).items()}


def test_the_models_data_config_is_the_one_used() -> None:
    model = small_net(size=96)
    assert data_config(model)["input_size"] == (3, 96, 96)
    assert data_config(model, 128)["input_size"] == (3, 128, 128)
