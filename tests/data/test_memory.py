"""Small images, in memory: cropped, flipped and normalized in batches."""

from __future__ import annotations

import pytest
import torch
from one_epoch import one_epoch
from pictures import MEAN, ONE, STD, by_label, equal, memory_images, splitmix
from torch import Tensor

from timm_jackpot.runtime.processes import Shard


def test_training_batches_are_a_function_of_seed_and_epoch() -> None:
    source = memory_images()
    kwargs = {"batch_size": 5, "shard": ONE}
    once = lambda seed, epoch: one_epoch(source, seed=seed, epoch=epoch, **kwargs)  # noqa: E731
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
    for images, labels in one_epoch(source, seed=7, epoch=2, batch_size=5, shard=ONE):
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
    for batch in one_epoch(source, seed=0, epoch=0, batch_size=5, shard=ONE):
        assert all(torch.equal(image, plain[label]) for label, image in by_label(batch).items())


def test_two_shards_see_the_same_augmented_images_as_one() -> None:
    source = memory_images()
    halves = [one_epoch(source, seed=1, epoch=1, batch_size=3, shard=Shard(rank, 2)) for rank in (0, 1)]
    whole = one_epoch(source, seed=1, epoch=1, batch_size=6, shard=ONE)
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
        *one_epoch(source, seed=0, epoch=0, batch_size=5, shard=ONE),
        *source.eval_batches(batch_size=5, shard=ONE),
    ):
        batch.images.zero_()
    assert torch.equal(source.images, before)
