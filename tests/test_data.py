"""Images: the same sample in the same place with the same augmentation, however the work is shared."""

from __future__ import annotations

import dataclasses
import os
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from timm_jackpot.base import Base, load_base
from timm_jackpot.data import Batch, Data, DataFlags, ImageSource, open_data, open_split, steps_per_epoch
from timm_jackpot.data.digits import digits_split
from timm_jackpot.data.hub_images import open_hub_data
from timm_jackpot.data.imagenet import Relabeled
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.open import data_config, hold_out
from timm_jackpot.data.read import known_labels
from timm_jackpot.data.source import eval_order, part_positions, sample_hash, train_order
from timm_jackpot.errors import ConfigError, DataError
from timm_jackpot.runtime.processes import Shard

CPU = torch.device("cpu")
ONE = Shard()
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def memory_images(n: int = 23, size: int = 8, hflip: float = 0.5, padding: int = 2) -> MemoryImages:
    images = torch.randint(256, (n, 3, size, size), dtype=torch.uint8)
    return MemoryImages(images, torch.arange(n), MEAN, STD, hflip, padding)


def equal(a: Iterator[Batch], b: Iterator[Batch]) -> bool:
    left, right = list(a), list(b)
    return len(left) == len(right) > 0 and all(
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) for x, y in zip(left, right, strict=True)
    )


def by_label(batch: Batch) -> dict[int, Tensor]:
    return dict(zip(batch.labels.tolist(), batch.images, strict=True))


# -- orders -----------------------------------------------------------------------------------------


@given(n=st.integers(1, 60), batch=st.integers(1, 9), ranks=st.integers(1, 4), epoch=st.integers(0, 5))
def test_an_epoch_is_full_batches_of_distinct_samples(n: int, batch: int, ranks: int, epoch: int) -> None:
    batches = [list(train_order(n, seed=3, epoch=epoch, batch_size=batch, shard=Shard(r, ranks))) for r in range(ranks)]
    steps = steps_per_epoch(n, batch, Shard(0, ranks))
    assert [len(mine) for mine in batches] == [steps] * ranks
    seen = [i for mine in batches for indices in mine for i in indices.tolist()]
    assert len(seen) == len(set(seen)) == steps * ranks * batch
    assert set(seen) <= set(range(n))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(list(train_order(50, seed=seed, epoch=epoch, batch_size=5, shard=ONE))).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_shards_read_what_one_large_shard_would() -> None:
    both = [list(train_order(50, seed=1, epoch=2, batch_size=4, shard=Shard(rank, 2))) for rank in (0, 1)]
    whole = list(train_order(50, seed=1, epoch=2, batch_size=8, shard=ONE))
    assert [torch.cat(pair).tolist() for pair in zip(*both, strict=True)] == [indices.tolist() for indices in whole]


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_with_labels_every_class_comes_at_its_own_even_pace(sizes: list[int], batch: int, seed: int) -> None:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    order = torch.cat(
        [*train_order(len(labels), seed=seed, epoch=1, batch_size=1, shard=ONE, labels=labels), labels[:0]]
    )
    assert sorted(order.tolist()) == list(range(len(labels)))
    for one, m in enumerate(sizes):
        for other, k in enumerate(sizes):
            # Between two neighbours of one class lies 1/m of the way, and in it of another class k/m, give or take one.
            places = (labels[order] == one).nonzero().flatten().tolist()
            for low, high in pairwise(places):
                between = int((labels[order[low:high]] == other).sum())
                assert abs(between - k / m) <= 1
    batches = list(train_order(len(labels), seed=seed, epoch=1, batch_size=batch, shard=ONE, labels=labels))
    assert [sorted(one.tolist()) for one in batches] == [
        sorted(one.tolist()) for one in order.split(batch) if len(one) == batch
    ]


def test_where_an_image_stands_in_a_spread_batch_does_not_tell_its_class() -> None:
    """Else labels that are shuffled within a batch, as an audit does, could be learned."""
    labels = torch.arange(6400) % 10
    order = list(train_order(6400, seed=0, epoch=0, batch_size=64, shard=ONE, labels=labels))
    pairs = torch.zeros(10, 10)
    for batch in order:
        classes = labels[batch]
        pairs.index_put_((classes, classes.roll(1)), torch.tensor(1.0), accumulate=True)
    assert pairs.min() > 30  # 64 expected in each, on the diagonal 55; standard deviation 8
    assert pairs.max() < 110


def test_shards_of_spread_batches_read_what_one_large_shard_would() -> None:
    labels = torch.arange(50) % 4
    both = [
        list(train_order(50, seed=1, epoch=2, batch_size=4, shard=Shard(rank, 2), labels=labels)) for rank in (0, 1)
    ]
    whole = list(train_order(50, seed=1, epoch=2, batch_size=8, shard=ONE, labels=labels))
    assert [torch.cat(pair).tolist() for pair in zip(*both, strict=True)] == [indices.tolist() for indices in whole]
    later = train_order(50, seed=1, epoch=2, batch_size=8, shard=ONE, labels=labels, first=3)
    assert [batch.tolist() for batch in later] == [batch.tolist() for batch in whole[3:]]


def test_spread_orders_differ_by_seed_and_epoch_and_within_a_class() -> None:
    labels = torch.arange(60) % 3

    def order(seed: int, epoch: int) -> list[int]:
        batches = train_order(60, seed=seed, epoch=epoch, batch_size=6, shard=ONE, labels=labels)
        return torch.cat(list(batches)).tolist()

    assert order(1, 2) == order(1, 2)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(one) for one in orders}) == 9
    assert len({tuple(i for i in one if labels[i] == 0) for one in orders}) == 9


@given(n=st.integers(0, 60), batch=st.integers(1, 9), ranks=st.integers(1, 4))
def test_evaluation_covers_every_image_once(n: int, batch: int, ranks: int) -> None:
    parts = [list(eval_order(n, batch_size=batch, shard=Shard(rank, ranks))) for rank in range(ranks)]
    assert sorted(i for part in parts for indices in part for i in indices.tolist()) == list(range(n))
    assert all(0 < len(indices) <= batch for part in parts for indices in part)


def splitmix(seed: int, epoch: int, index: int) -> int:
    """The draw of one sample in plain integers: splitmix64's finaliser, low 62 bits."""
    x = seed * 0x1E3779B97F4A7C15 + epoch * 0x3F58476D1CE4E5B9 + 0x632BE59BD9B4E019
    x = (x % (1 << 63) + index * 0x1E3779B97F4A7C15) % (1 << 64)
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % (1 << 64)
    return (x ^ (x >> 31)) % (1 << 62)


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**4), index=st.integers(0, 10**8))
def test_the_hash_of_a_sample_is_splitmix(seed: int, epoch: int, index: int) -> None:
    assert sample_hash(seed, epoch, torch.tensor([index])).tolist() == [splitmix(seed, epoch, index)]


def test_draws_are_spread_evenly_and_independently() -> None:
    draws = sample_hash(0, 0, torch.arange(20_000))
    top, left, flip = draws % 9, (draws >> 12) % 9, ((draws >> 24) & 0xFFFF) < 0x8000
    cells = torch.bincount((top * 9 + left) * 2 + flip, minlength=162)
    assert cells.min() > 70  # 123 expected in each, standard deviation 11
    assert cells.max() < 180
    assert (draws == sample_hash(0, 1, torch.arange(20_000))).sum() == 0


# -- small images, in memory ------------------------------------------------------------------------


def test_training_batches_are_a_function_of_seed_and_epoch() -> None:
    source = memory_images()
    kwargs = {"batch_size": 5, "shard": ONE}
    once = lambda seed, epoch: source.train_batches(seed=seed, epoch=epoch, **kwargs)  # noqa: E731
    assert equal(once(0, 0), once(0, 0))
    assert not equal(once(0, 0), once(0, 1))
    assert not equal(once(0, 0), once(1, 0))
    torch.rand(3)  # whatever else was drawn
    assert equal(once(1, 3), once(1, 3))


def slow_augment(image: Tensor, index: int, *, seed: int, epoch: int, hflip: float, padding: int) -> Tensor:
    """Zero-pad, crop, perhaps mirror, normalise: one image, pixel by pixel."""
    draw = splitmix(seed, epoch, index)
    top, left = draw % (2 * padding + 1), (draw >> 12) % (2 * padding + 1)
    mirrored = ((draw >> 24) & 0xFFFF) < round(hflip * 65536)
    channels, height, width = image.shape
    out = torch.empty(channels, height, width)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row, column = top + y - padding, left + (width - 1 - x if mirrored else x) - padding
                inside = 0 <= row < height and 0 <= column < width
                out[c, y, x] = ((image[c, row, column].item() if inside else 0) / 255 - MEAN[c]) / STD[c]
    return out


@pytest.mark.parametrize(("hflip", "padding"), [(0.5, 2), (0.0, 1), (1.0, 0), (0.3, 3)])
def test_crops_and_flips_are_those_of_a_slow_implementation(hflip: float, padding: int) -> None:
    source = memory_images(size=6, hflip=hflip, padding=padding)
    for images, labels in source.train_batches(seed=7, epoch=2, batch_size=5, shard=ONE):
        for image, index in zip(images, labels.tolist(), strict=True):
            kwargs = {"seed": 7, "epoch": 2, "hflip": hflip, "padding": padding}
            torch.testing.assert_close(image, slow_augment(source.images[index], index, **kwargs), rtol=0, atol=1e-5)


def test_without_padding_and_flips_training_images_are_the_images() -> None:
    source = memory_images(hflip=0.0, padding=0)
    plain = {
        label: image
        for batch in source.eval_batches(batch_size=7, shard=ONE)
        for label, image in by_label(batch).items()
    }
    for batch in source.train_batches(seed=0, epoch=0, batch_size=5, shard=ONE):
        assert all(torch.equal(image, plain[label]) for label, image in by_label(batch).items())


def test_two_shards_see_the_same_augmented_images_as_one() -> None:
    source = memory_images()
    halves = [source.train_batches(seed=1, epoch=1, batch_size=3, shard=Shard(rank, 2)) for rank in (0, 1)]
    whole = source.train_batches(seed=1, epoch=1, batch_size=6, shard=ONE)
    steps = list(zip(*halves, whole, strict=True))
    assert len(steps) == 3
    for first, second, both in steps:
        together = by_label(first) | by_label(second)
        expected = by_label(both)
        assert set(together) == set(expected)
        assert all(torch.equal(image, expected[label]) for label, image in together.items())


def test_evaluation_images_are_normalised_and_in_order() -> None:
    source = memory_images()
    batches = list(source.eval_batches(batch_size=5, shard=ONE))
    assert torch.cat([batch.labels for batch in batches]).tolist() == list(range(23))
    expected = (source.images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(torch.cat([batch.images for batch in batches]), expected, rtol=0, atol=1e-5)
    assert all(batch.images.is_contiguous() for batch in batches)


def test_three_shards_evaluate_every_image_once() -> None:
    source = memory_images()
    labels = [
        label
        for rank in range(3)
        for batch in source.eval_batches(batch_size=4, shard=Shard(rank, 3))
        for label in batch.labels.tolist()
    ]
    assert sorted(labels) == list(range(23))


def test_augmentation_leaves_the_stored_images_alone() -> None:
    source = memory_images()
    before = source.images.clone()
    for batch in (
        *source.train_batches(seed=0, epoch=0, batch_size=5, shard=ONE),
        *source.eval_batches(batch_size=5, shard=ONE),
    ):
        batch.images.zero_()
    assert torch.equal(source.images, before)


# -- hold-out ---------------------------------------------------------------------------------------


@given(n=st.integers(0, 200), per_cent=st.integers(0, 99))
def test_held_out_samples_are_disjoint_from_the_rest(n: int, per_cent: int) -> None:
    kept, held_out = hold_out(n, per_cent / 100)
    assert len(held_out) == round(n * per_cent / 100)
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(n))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())


def test_the_hold_out_is_the_same_whatever_was_seeded() -> None:
    torch.manual_seed(1)
    first = hold_out(1000, 0.1)[1]
    torch.manual_seed(2)
    assert torch.equal(hold_out(1000, 0.1)[1], first)
    assert hold_out(10, 0.3)[1].tolist() == [1, 3, 8]  # published figures rest on this choice


# -- parts of the training split --------------------------------------------------------------------


@given(labels=st.lists(st.integers(0, 3), max_size=60).map(torch.tensor), parts=st.integers(1, 7))
def test_parts_are_disjoint_complete_and_balanced(labels: Tensor, parts: int) -> None:
    labels = labels.long()
    found = [part_positions(labels, f"{k}/{parts}").tolist() for k in range(1, parts + 1)]
    assert sorted(position for part in found for position in part) == list(range(len(labels)))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(part == sorted(part) for part in found)
    counts = torch.stack([labels[part].bincount(minlength=4) for part in found])
    assert (counts.max(0).values - counts.min(0).values).max() <= 1


def test_the_halves_of_a_split_that_is_listed_by_class_are_published_figures_own() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert part_positions(labels, None).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert part_positions(labels, "1/2").tolist() == [0, 2, 4, 6]
    assert part_positions(labels, "2/2").tolist() == [1, 3, 5]
    assert part_positions(labels[:1], "2/2").tolist() == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", " 1/2", "1.0/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give a part as k/n with 1 ≤ k ≤ n, such as 1/2"):
        DataFlags(train_part=text)


# -- digits -----------------------------------------------------------------------------------------


def test_digits_have_their_sizes_and_labels() -> None:
    images, labels = digits_split("train")
    assert (len(images), len(labels)) == (1198, 1198)
    assert (images.dtype, tuple(images.shape[1:])) == (torch.uint8, (3, 32, 32))
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) == set(range(10))
    assert len(digits_split("test")[1]) == 599


def test_digits_splits_are_disjoint_and_make_up_the_whole() -> None:
    from sklearn.datasets import load_digits

    train, test = digits_split("train"), digits_split("test")
    target = load_digits().target  # pyright: ignore
    assert test[1].tolist() == target[::3].tolist()
    assert train[1].tolist() == [int(label) for i, label in enumerate(target) if i % 3]
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


# -- image folders and tar files --------------------------------------------------------------------


def picture(label: int, number: int, size: int) -> Image.Image:
    pixels = np.random.default_rng(1000 * label + number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_split(root: Path, split: str, *, size: int, per_class: int, classes: str = "ab", tar: bool = False) -> None:
    """Folder `split` (or `split`.tar) in `root`: `per_class` random PNGs in one folder per class."""
    folder = root / ("unpacked-" + split if tar else split)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            picture(label, number, size).save(folder / name / f"{number}.png")
    if tar:
        with tarfile.open(root / f"{split}.tar", "w") as file:
            for name in classes:
                file.add(folder / name, name)


def small_net(classes: int = 2, size: int = 32) -> nn.Module:
    return timm.create_model("test_resnet", num_classes=classes, pretrained_cfg_overlay={"input_size": (3, size, size)})


@pytest.fixture(params=["folder", "tar"])
def images_32(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_split(tmp_path, "train", size=32, per_class=10, tar=request.param == "tar")
    write_split(tmp_path, "test", size=32, per_class=3, tar=request.param == "tar")
    return tmp_path


@pytest.fixture(params=["folder", "tar"])
def images_100(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_split(tmp_path, "train", size=100, per_class=6, tar=request.param == "tar")
    write_split(tmp_path, "test", size=100, per_class=2, tar=request.param == "tar")
    return tmp_path


def open_folder(root: Path, model: nn.Module | None = None, **flags: Any) -> Data:
    return open_data(DataFlags(data_dir=str(root), **flags), small_net() if model is None else model, device=CPU)


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
        batches = source.train_batches(seed=0, epoch=epoch, batch_size=len(source) // 2, shard=ONE)
        return [batch.labels.bincount(minlength=2).tolist() for batch in batches]

    for epoch in range(8):
        assert all(
            abs(2 * found - whole) <= 3
            for batch in counts(spread, epoch)
            for found, whole in zip(batch, total, strict=True)
        )
    assert any(counts(plain, epoch) != counts(spread, epoch) for epoch in range(8))
    later = spread.train_batches(seed=0, epoch=3, batch_size=4, shard=ONE, first=2)
    whole = list(spread.train_batches(seed=0, epoch=3, batch_size=4, shard=ONE))
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


# -- larger images, through a DataLoader ------------------------------------------------------------


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
    assert equal(
        none.train.train_batches(seed=1, epoch=1, **kwargs), two.train.train_batches(seed=1, epoch=1, **kwargs)
    )
    assert equal(none.test.eval_batches(**kwargs), two.test.eval_batches(**kwargs))


@pytest.fixture
def loaded(images_100: Path) -> LoaderImages:
    source = open_folder(images_100, small_net(size=96), workers=0, val_fraction=0.25).train
    assert isinstance(source, LoaderImages)
    return source


def test_loaded_training_batches_are_a_function_of_seed_and_epoch(loaded: LoaderImages) -> None:
    once = lambda seed, epoch: loaded.train_batches(seed=seed, epoch=epoch, batch_size=4, shard=ONE)  # noqa: E731
    first = list(once(0, 0))
    torch.rand(3)
    assert equal(iter(first), once(0, 0))
    assert not equal(iter(first), once(0, 1))
    assert not equal(iter(first), once(1, 0))


def test_loaded_shards_see_the_same_augmented_images_as_one(loaded: LoaderImages) -> None:
    source = dataclasses.replace(loaded, dataset=Numbered(loaded.dataset))
    halves = [source.train_batches(seed=1, epoch=1, batch_size=2, shard=Shard(rank, 2)) for rank in (0, 1)]
    whole = source.train_batches(seed=1, epoch=1, batch_size=4, shard=ONE)
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
        source.train_batches(seed=1, epoch=0, batch_size=batch_size, shard=Shard(rank, count), first=first)
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
        list(nothing.train_batches(seed=1, epoch=0, batch_size=batch_size, shard=ONE))


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
    batches = numbered.train_batches(seed=seed, epoch=epoch, batch_size=batch_size, shard=ONE)
    return {label: image for batch in batches for label, image in by_label(batch).items()}


def test_the_models_data_config_is_the_one_used() -> None:
    model = small_net(size=96)
    assert data_config(model)["input_size"] == (3, 96, 96)
    assert data_config(model, 128)["input_size"] == (3, 128, 128)


# -- what is refused --------------------------------------------------------------------------------


def raises_data_error(match: str, call: Callable[[], object]) -> None:
    with pytest.raises(DataError, match=match):
        call()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    raises_data_error(r"data folder .*nowhere does not exist", lambda: open_folder(tmp_path / "nowhere"))


def test_a_folder_data_set_needs_a_folder() -> None:
    raises_data_error("need --data-dir", lambda: open_data(DataFlags(dataset="folder"), small_net(), device=CPU))


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
        batch = next(iter(source.train_batches(seed=0, epoch=0, batch_size=2, shard=ONE)))
        assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
        assert len(batch.images) == len(batch.labels) == 2
