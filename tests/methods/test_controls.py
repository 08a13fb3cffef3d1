"""The controls of a jackpot: exact counts, other places, and broken ones that are caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from one_epoch import one_epoch

from timm_jackpot.data import ImageSource, shared_images
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.masks import MaskSet, chance_overlap, keep_largest, mask_overlap
from timm_jackpot.methods.controls import (
    ShuffledLabels,
    check_control,
    check_fresh_weights,
    draw_weights,
    permute_across,
    permute_within,
    smallest_weights,
)
from timm_jackpot.runtime.processes import Shard

SHAPES = {"a": ((40, 30), 300), "b": ((64, 8, 3, 3), 100), "c": ((50, 50), 1250)}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=generator) for name, (shape, _) in SHAPES.items()}


@pytest.fixture
def masks(weights: dict[str, torch.Tensor]) -> MaskSet:
    return MaskSet({name: keep_largest(weights[name].abs(), kept) for name, (_, kept) in SHAPES.items()})


DRAWN = {"within": permute_within, "across": permute_across}


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_controls_are_at_chance_seeded_and_keep_their_counts(name: str, masks: MaskSet) -> None:
    before = masks.hash()
    control = DRAWN[name](masks, seed=3)
    assert masks.hash() == before
    assert control.kept == masks.kept
    assert (control.kept_per_layer() == masks.kept_per_layer()) == (name != "across")
    # 7,000 elements agree by chance with a spread of half a per cent.
    assert mask_overlap(control, masks) == pytest.approx(chance_overlap(control, masks), abs=0.02)
    assert DRAWN[name](masks, seed=3) == control
    assert DRAWN[name](masks, seed=4) != control
    assert check_control(name, control, masks, by_layer=name != "across") is control


def test_permuted_across_spreads_the_total_evenly(masks: MaskSet) -> None:
    control = permute_across(masks, seed=0)
    density = masks.kept / masks.total
    for name, kept in control.kept_per_layer().items():
        assert kept / masks[name].numel() == pytest.approx(density, abs=0.05)


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 99), data=st.data())
def test_controls_keep_exact_counts_whatever_the_mask(sizes: list[int], seed: int, data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, size)) for size in sizes]
    masks = MaskSet({f"l{i}": torch.arange(n) < kept for i, (n, kept) in enumerate(zip(sizes, counts, strict=True))})
    assert permute_within(masks, seed=seed).kept_per_layer() == masks.kept_per_layer()
    across = permute_across(masks, seed=seed)
    assert across.kept == masks.kept
    if masks.kept >= len(sizes):
        assert min(across.kept_per_layer().values()) >= 1  # no network is cut through


def test_smallest_weights_are_the_smallest(masks: MaskSet, weights: dict[str, torch.Tensor]) -> None:
    control = check_control("smallest", smallest_weights(masks, weights), masks)
    assert control.kept_per_layer() == masks.kept_per_layer()
    for name, mask in control.items():
        assert weights[name][mask].abs().max() <= weights[name][~mask].abs().min()


def test_reinitialised_weights_are_fresh_and_of_the_same_scale(weights: dict[str, torch.Tensor]) -> None:
    scaled = {name: weight * 10.0**i for i, (name, weight) in enumerate(weights.items())}
    fresh = check_fresh_weights("reinitialised", draw_weights(scaled, seed=0), scaled)
    for name, weight in scaled.items():
        assert fresh[name].shape == weight.shape
        assert not (fresh[name] == weight).any()
        torch.testing.assert_close(fresh[name].std(), weight.std(), rtol=0.1, atol=0)
    assert torch.equal(fresh["a"], draw_weights(scaled, seed=0)["a"])
    assert not torch.equal(fresh["a"], draw_weights(scaled, seed=1)["a"])


def test_a_shuffle_that_shuffles_nothing_is_caught(masks: MaskSet) -> None:
    with pytest.raises(TrainingError, match=r"permuted_within is broken: it agrees .* in 100\.00 %"):
        check_control("permuted_within", masks, masks)


def test_a_shuffle_that_shuffles_hardly_anything_is_caught(masks: MaskSet) -> None:
    swapped = {name: mask.clone() for name, mask in masks.items()}
    for mask in swapped.values():  # one kept weight and one removed one change places
        flat = mask.view(-1)
        one, other = flat.nonzero()[0], (~flat).nonzero()[0]
        flat[one], flat[other] = False, True
    hardly = MaskSet(swapped)
    assert hardly != masks
    with pytest.raises(TrainingError, match="is broken: it agrees"):
        check_control("permuted_within", hardly, masks)


def test_a_count_that_is_off_by_one_is_caught(masks: MaskSet) -> None:
    control = {name: mask.clone() for name, mask in permute_within(masks, seed=0).items()}
    control["b"].view(-1)[(~control["b"].view(-1)).nonzero()[0]] = True
    for by_layer in (True, False):
        with pytest.raises(TrainingError, match=f"it keeps {masks.kept + 1} weights and the jackpot {masks.kept}"):
            check_control("permuted_within", MaskSet(control), masks, by_layer=by_layer)


def test_counts_that_wander_between_layers_are_caught(masks: MaskSet) -> None:
    with pytest.raises(TrainingError, match="their layer counts differ"):
        check_control("random", permute_across(masks, seed=0), masks)


def test_weights_that_stay_are_caught(weights: dict[str, torch.Tensor]) -> None:
    fresh = {**draw_weights(weights, seed=0), "b": weights["b"]}
    with pytest.raises(TrainingError, match="b was not reinitialized"):
        check_fresh_weights("reinitialised", fresh, weights)


def _memory(images: torch.Tensor, labels: torch.Tensor) -> MemoryImages:
    return MemoryImages(images, labels, (0.5,), (0.5,), 0.0, 0)


def test_shuffled_labels_belong_to_other_images_and_say_nothing_of_theirs() -> None:
    n = 600
    images = (
        torch.arange(n)[:, None, None, None].expand(n, 2, 1, 1) // torch.tensor([256, 1])[None, :, None, None] % 256
    )
    labels = torch.arange(n)  # every image a class of its own: its label tells whose it is
    source = _memory(images.to(torch.uint8), labels)
    shuffled = ShuffledLabels(source)
    order = {"seed": 0, "batch_size": 100, "shard": Shard()}
    pairs = []
    for epoch in (0, 1):
        true = list(one_epoch(source, epoch=epoch, **order))
        false = list(one_epoch(shuffled, epoch=epoch, **order))
        for right, wrong in zip(true, false, strict=True):
            assert torch.equal(right.images, wrong.images)
            assert not (right.labels == wrong.labels).any()
            assert sorted(right.labels.tolist()) == sorted(wrong.labels.tolist())
            pairs += list(zip(right.labels.tolist(), wrong.labels.tolist(), strict=True))
    assert len(set(pairs)) > 1.9 * n  # most often another one in the second epoch
    with pytest.raises(ConfigError, match="batches of one image"):
        next(one_epoch(shuffled, seed=0, epoch=0, batch_size=1, shard=Shard()))


def test_shuffled_labels_of_stratified_images_are_right_as_often_as_chance_has_it() -> None:
    """Ten classes in batches of ten: a stratified neighbour is of another class, and that could be learned."""
    images, labels = torch.zeros(2000, 1, 1, 1, dtype=torch.uint8), torch.arange(2000) % 10
    images[:, 0, 0, 0] = labels  # an image shows its class
    source = replace(_memory(images, labels), stratified=True)

    def right(found: ImageSource) -> float:
        batches = one_epoch(found, seed=0, epoch=0, batch_size=10, shard=Shard())
        shown = [(round_trip(batch.images), batch.labels) for batch in batches]
        return float(torch.cat([seen == said for seen, said in shown]).float().mean())

    def round_trip(normalised: torch.Tensor) -> torch.Tensor:
        return ((normalised * 0.5 + 0.5) * 255).round().long().flatten()

    assert right(source) == 1.0
    assert 0.07 < right(ShuffledLabels(source)) < 0.13


def test_shared_images_in_memory_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(30, dtype=torch.int64)
    train, held_out, test = (_memory(part, labels[: len(part)]) for part in images.split([15, 5, 10]))
    assert shared_images(test, [train, held_out]) == 0
    leaked = _memory(torch.cat([test.images, train.images[:1], held_out.images[:1]]), labels[:12])
    assert shared_images(leaked, [train, held_out]) == 2
    assert shared_images(leaked, [train]) == 1


def test_shared_images_of_loaders_are_counted_where_that_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    dataset = [(Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)), 0) for _ in range(8)]
    dataset[6] = (dataset[1][0].copy(), 0)

    def source(*positions: int) -> LoaderImages:
        return LoaderImages(dataset, torch.tensor(positions), torch.tensor, torch.tensor, 0, torch.device("cpu"))

    assert shared_images(source(5, 6, 7), [source(0, 1, 2)]) == 1
    assert shared_images(source(5, 7), [source(0, 1, 2)]) == 0
    monkeypatch.setattr("timm_jackpot.data.leaks._MAX_DECODED", 5)
    assert shared_images(source(5, 6, 7), [source(0, 1, 2)]) is None
