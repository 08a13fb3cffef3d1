"""Floor 0: exact counts, deterministic masks, bits in the right places."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import (
    ALLOCATIONS,
    MaskSet,
    allocate,
    chance_overlap,
    group_thresholds,
    keep_largest,
    kept_count,
    layer_overlaps,
    mask_overlap,
    pack,
    packed_bytes,
    parse_sparsity,
    scale_counts,
    threshold_of,
    unpack,
)

Shape = tuple[int, ...]

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
models = st.lists(shapes, min_size=1, max_size=6)
sparsities = st.integers(0, 9_999).map(lambda k: f"{k / 10_000:.4f}")


def random_scores(layers: list[Shape], *, levels: int | None = None) -> dict[str, Tensor]:
    """Scores by layer; with few `levels` most of them are tied."""
    generator = torch.Generator().manual_seed(len(layers))
    if levels is None:
        return {f"layer{i}": torch.rand(shape, generator=generator) for i, shape in enumerate(layers)}
    return {f"layer{i}": torch.randint(levels, shape, generator=generator).float() for i, shape in enumerate(layers)}


# -- sparsity and counts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "sparsity", "kept"),
    [
        (0, "0.9", 0),
        (10, "0", 10),
        (10, "0.9", 1),
        (100, "0.95", 5),
        (1000, "0.999", 1),
        (268_336, "0.9", 26_834),
        (1, "0.5", 0),  # a half goes to the removed side
        (3, "0.5", 1),
        (10, "0.95", 0),
        (50, "0.29", 35),  # 50 · 0.29 in floats is 14.499999999999998
        (3, "0.3333333333333333", 2),
        (30_000_000_000_000_000, "0.3333333333333333", 20_000_000_000_000_001),
        (10**18 + 5, "0.9", 10**17),  # beyond what a float can count
    ],
)
def test_kept_count_reads_sparsity_as_an_exact_decimal(n: int, sparsity: str, kept: int) -> None:
    assert kept_count(n, sparsity) == kept
    assert kept_count(n, Decimal(sparsity)) == kept


@given(n=st.integers(0, 10**12), digits=st.integers(0, 10**9 - 1))
def test_kept_count_is_the_integer_formula(n: int, digits: int) -> None:
    removed = (2 * n * digits + 10**9) // (2 * 10**9)
    assert kept_count(n, f"0.{digits:09d}") == n - removed


def test_sparsity_given_as_a_float_is_what_it_prints() -> None:
    assert parse_sparsity(0.9) == Decimal("0.9")


@pytest.mark.parametrize("text", ["1", "-0.1", "1.5", "nan", "inf", "ninety", "", "90%"])
def test_a_sparsity_outside_zero_to_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a number in"):
        parse_sparsity(text)


@pytest.mark.parametrize(
    "text",
    ["1e-999999999", "1e-5", "9E-1", "-0", "-0.0", "+0.5", "\u0660.\u0669", "\uff10.\uff19",
     "0_0.9", " 0.9", "0.9\n", ".", "0.5.", "0." + "9" * 39],
)  # fmt: skip
def test_a_sparsity_is_plain_figures(text: str) -> None:
    with pytest.raises(ConfigError, match="in plain decimal notation"):
        parse_sparsity(text)


@pytest.mark.parametrize("value", [Decimal("1e-999999999"), Decimal("1e999999999"), 5e-324, float("nan")])
def test_a_number_of_very_many_figures_is_refused_without_writing_them_out(value: Decimal | float) -> None:
    with pytest.raises(ConfigError, match="not a number in"):
        parse_sparsity(value)


@given(text=st.text(st.sampled_from("0159.-+eE_ \u0661"), max_size=44) | st.text(max_size=44))
def test_whatever_is_read_as_a_sparsity_is_read_alike_by_everybody(text: str) -> None:
    try:
        found = parse_sparsity(text)
    except ConfigError:
        return
    assert text.isascii()
    assert set(text) <= set("0123456789.")
    assert 0 <= found < 1
    assert Decimal(text) == found
    assert kept_count(10**9, text) <= 10**9


@given(value=st.floats(0, 1, exclude_max=True))
def test_a_float_is_read_exactly_or_refused(value: float) -> None:
    try:
        assert parse_sparsity(value) == Decimal(str(value))
    except ConfigError:
        assert len(f"{Decimal(str(value)):f}") > 40


# -- allocation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(layers=models, sparsity=sparsities)
def test_every_allocation_keeps_exactly_the_budget(name: str, layers: list[Shape], sparsity: str) -> None:
    scores = random_scores(layers)
    counts = allocate(name, scores, sparsity)
    assert list(counts) == list(scores)
    assert sum(counts.values()) == kept_count(sum(map(prod, layers)), sparsity)
    assert all(0 <= counts[layer] <= values.numel() for layer, values in scores.items())
    assert counts == allocate(name, scores, sparsity)


@given(layers=models, sparsity=sparsities, levels=st.integers(1, 5))
def test_global_keeps_what_sorting_all_scores_would(layers: list[Shape], sparsity: str, levels: int) -> None:
    scores = random_scores(layers, levels=levels)
    flat = [(-value, layer) for layer, values in scores.items() for value in values.flatten().tolist()]
    best = sorted(range(len(flat)), key=lambda i: (flat[i][0], i))[: kept_count(len(flat), sparsity)]
    chosen = [flat[i][1] for i in best]
    assert allocate("global", scores, sparsity) == {layer: chosen.count(layer) for layer in scores}


@given(layers=models, sparsity=sparsities)
def test_uniform_densities_are_equal_within_one_weight(layers: list[Shape], sparsity: str) -> None:
    counts = allocate("uniform", random_scores(layers), sparsity)
    density = Fraction(sum(counts.values()), sum(map(prod, layers)))
    assert all(abs(kept - density * prod(shape)) < 1 for kept, shape in zip(counts.values(), layers, strict=True))


def water_filling(layers: list[Shape], total: int) -> list[float]:
    """ERK's real-valued counts min(Πshape, ε·Σshape), ε by bisection."""
    low, high = 0.0, float(max(map(prod, layers)))
    for _ in range(200):
        epsilon = (low + high) / 2
        filled = sum(min(prod(shape), epsilon * sum(shape)) for shape in layers)
        low, high = (epsilon, high) if filled < total else (low, epsilon)
    return [min(prod(shape), high * sum(shape)) for shape in layers]


@given(layers=models, sparsity=sparsities)
def test_erk_is_water_filling_over_the_sums_of_shapes(layers: list[Shape], sparsity: str) -> None:
    counts = allocate("erk", random_scores(layers), sparsity)
    targets = water_filling(layers, sum(counts.values()))
    assert all(abs(kept - target) < 1 + 1e-6 for kept, target in zip(counts.values(), targets, strict=True))


def test_erk_caps_small_layers_at_density_one_and_shares_their_excess() -> None:
    # 232 of 2,417 weights; uncapped, ε·Σshape would be 16.9, 4.2 and 210.9 for sizes 16, 1 and 2,400.
    counts = allocate("erk", random_scores([(4, 4), (1, 1), (40, 60)]), "0.904")
    assert list(counts.values()) == [16, 1, 215]


def test_erk_by_hand() -> None:
    # Σshape 15 and 25 share the 40 kept weights of 200: ε = 1.
    counts = allocate("erk", {"a": torch.rand(5, 10), "b": torch.rand(10, 15)}, "0.8")
    assert counts == {"a": 15, "b": 25}


@given(layers=models, sparsity=sparsities, minimum=st.integers(0, 4))
def test_a_minimum_is_kept_or_refused(layers: list[Shape], sparsity: str, minimum: int) -> None:
    scores = random_scores(layers)
    needed = [min(minimum, prod(shape)) for shape in layers]
    total = kept_count(sum(map(prod, layers)), sparsity)
    if sum(needed) > total:
        with pytest.raises(ConfigError, match="need at least"):
            allocate("global", scores, sparsity, minimum=minimum)
        return
    counts = list(allocate("global", scores, sparsity, minimum=minimum).values())
    assert sum(counts) == total
    assert all(low <= kept <= prod(shape) for low, kept, shape in zip(needed, counts, layers, strict=True))


def test_an_unknown_allocation_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="global, uniform, erk"):
        allocate("lamp", {"a": torch.rand(3)}, "0.5")


def test_scaled_counts_start_dense_and_end_at_the_budget() -> None:
    sizes, counts = {"a": 100, "b": 7, "c": 3}, {"a": 10, "b": 0, "c": 3}
    steps = [scale_counts(sizes, counts, t / 20) for t in range(21)]
    assert steps[0] == sizes
    assert steps[-1] == counts
    for name in sizes:
        path = [step[name] for step in steps]
        assert path == sorted(path, reverse=True)
    assert steps[10]["a"] == 55


# -- selection --------------------------------------------------------------------------------------


@given(shape=shapes, levels=st.integers(1, 4), data=st.data())
def test_keep_largest_is_exact_and_breaks_ties_by_position(shape: Shape, levels: int, data: st.DataObject) -> None:
    scores = torch.randint(levels, shape, generator=torch.Generator().manual_seed(prod(shape))).float()
    kept = data.draw(st.integers(0, prod(shape)))
    values = scores.flatten().tolist()
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:kept]
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[best] = True
    mask = keep_largest(scores, kept)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, expected.reshape(shape))


def test_equal_scores_keep_the_first() -> None:
    assert keep_largest(torch.zeros(2, 3), 4).tolist() == [[True, True, True], [True, False, False]]
    assert keep_largest(torch.tensor([0.0, -0.0, 0.0]), 2).tolist() == [True, True, False]


def test_keeping_none_and_all() -> None:
    scores = torch.rand(3, 5)
    assert not keep_largest(scores, 0).any()
    assert keep_largest(scores, 15).all()
    assert keep_largest(torch.empty(0, 4), 0).shape == (0, 4)


def test_memory_format_does_not_change_the_mask() -> None:
    scores = torch.randint(3, (4, 6, 3, 3)).float()
    expected = keep_largest(scores, 100)
    strided = torch.empty(4, 6, 3, 6)[..., ::2].copy_(scores)
    assert torch.equal(keep_largest(scores.to(memory_format=torch.channels_last), 100), expected)
    assert torch.equal(keep_largest(strided, 100), expected)
    assert keep_largest(scores.to(memory_format=torch.channels_last), 100).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_scores_of_any_real_type_are_ordered(dtype: torch.dtype) -> None:
    scores = torch.randint(20, (7, 9)).to(dtype)
    assert torch.equal(keep_largest(scores, 25), keep_largest(scores.float(), 25))


def test_scores_that_are_trained_give_a_mask_without_gradient() -> None:
    scores = torch.rand(7, requires_grad=True)
    mask = keep_largest(scores, 3)
    assert not mask.requires_grad
    assert int(mask.count_nonzero()) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [3, 10_000_000])
def test_a_gpu_keeps_the_same_weights(levels: int) -> None:
    scores = torch.randint(levels, (64, 32, 3, 3)).float()
    for kept in (0, 1, 1843, 18431, 18432):
        expected = keep_largest(scores, kept)
        assert torch.equal(keep_largest(scores.to("cuda"), kept).cpu(), expected)
        last = keep_largest(scores.to("cuda", memory_format=torch.channels_last), kept)
        assert torch.equal(last.cpu(), expected)


def test_infinite_scores_are_ordered_too() -> None:
    scores = torch.tensor([1.0, float("inf"), float("-inf"), float("inf")])
    assert keep_largest(scores, 1).tolist() == [False, True, False, False]
    assert keep_largest(scores, 3).tolist() == [True, True, False, True]


# -- thresholds -------------------------------------------------------------------------------------

a_float = st.floats(width=32, allow_nan=False)


@given(values=st.lists(a_float, min_size=1, max_size=30), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_threshold_is_reached_by_exactly_as_many_as_asked_for_and_equals_of_the_last(
    values: list[float], dtype: torch.dtype
) -> None:
    scores = torch.tensor(values).to(dtype)
    ordered = sorted(scores.tolist(), reverse=True)
    for kept in range(len(values) + 1):
        expected = [kept > 0 and score >= ordered[kept - 1] for score in scores.tolist()]
        if kept or max(ordered) < torch.inf:  # infinity reaches every threshold
            assert (scores >= threshold_of(scores, kept).to(dtype)).tolist() == expected


def test_a_threshold_is_halfway_between_two_levels() -> None:
    scores = torch.tensor([[1.0, 0.5, 1.0], [0.5, 0.5, 1.0]])
    assert threshold_of(scores, 3) == 0.75
    assert threshold_of(scores.t(), 3) == 0.75
    assert threshold_of(scores, 2) == 1
    assert threshold_of(scores, 5) == 0.5


@given(seed=st.integers(0, 100), pattern=st.sampled_from([(1, 2), (2, 4), (3, 4), (5, 8)]))
def test_thresholds_of_groups_are_those_of_every_group(seed: int, pattern: tuple[int, int]) -> None:
    n, m = pattern
    scores = torch.randint(9, (3, 2 * m, 2), generator=torch.Generator().manual_seed(seed)).float()
    thresholds = group_thresholds(scores, n, m)
    assert thresholds.shape == scores.shape
    for out, first, kernel in product(range(3), (0, m), range(2)):
        group = slice(first, first + m)
        assert (thresholds[out, group, kernel] == threshold_of(scores[out, group, kernel], n)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [3, 10_000_000])
def test_a_gpu_finds_the_same_thresholds(levels: int) -> None:
    scores = torch.randint(levels, (64, 32, 3, 3)).float()
    for kept in (0, 1, 1843, 18431, 18432):
        assert threshold_of(scores.to("cuda"), kept).cpu() == threshold_of(scores, kept)
    assert torch.equal(group_thresholds(scores.to("cuda"), 2, 4).cpu(), group_thresholds(scores, 2, 4))


# -- packing ----------------------------------------------------------------------------------------


@given(shape=st.lists(st.integers(0, 9), max_size=4).map(tuple), seed=st.integers(0, 100))
def test_packed_masks_come_back(shape: Shape, seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    packed = pack(mask)
    assert packed.dtype == torch.uint8
    assert tuple(packed.shape) == (packed_bytes(prod(shape)),)
    assert torch.equal(unpack(packed, shape), mask)


def test_element_i_is_bit_i_mod_8_of_byte_i_div_8() -> None:
    for i in range(19):
        mask = torch.zeros(19, dtype=torch.bool)
        mask[i] = True
        expected = [0, 0, 0]
        expected[i // 8] = 1 << (i % 8)
        assert pack(mask).tolist() == expected


def test_masks_are_packed_in_logical_order() -> None:
    mask = torch.rand(3, 4, 2, 2) < 0.5
    assert torch.equal(pack(mask.to(memory_format=torch.channels_last)), pack(mask))
    assert torch.equal(pack(mask.transpose(0, 1)), pack(mask.transpose(0, 1).contiguous()))


@pytest.mark.parametrize("bit", range(3, 8))
def test_set_spare_bits_are_refused(bit: int) -> None:
    packed = pack(torch.ones(11, dtype=torch.bool))
    packed[-1] |= 1 << bit
    with pytest.raises(ValueError, match="spare bits"):
        unpack(packed, (11,))


@pytest.mark.parametrize(
    "packed",
    [torch.zeros(1, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8), torch.zeros(2), torch.zeros(1, 2).byte()],
)
def test_bytes_of_the_wrong_length_or_type_are_refused(packed: Tensor) -> None:
    with pytest.raises(ValueError, match="need 2 bytes"):
        unpack(packed, (3, 4))


# -- mask sets --------------------------------------------------------------------------------------


def masks_of(**bits: list[bool]) -> MaskSet:
    return MaskSet({name: torch.tensor(values) for name, values in bits.items()})


@pytest.mark.parametrize("bad", [torch.ones(3), torch.ones(3, dtype=torch.uint8), [True, False], None])
def test_only_boolean_tensors_are_masks(bad: object) -> None:
    with pytest.raises(ValueError, match="mask of a must be a boolean tensor"):
        MaskSet({"a": bad})  # pyright: ignore


@pytest.mark.parametrize("name", ["", 3])
def test_a_mask_has_a_name(name: object) -> None:
    with pytest.raises(ValueError, match="needs the name of its weight"):
        MaskSet({name: torch.ones(3, dtype=torch.bool)})  # pyright: ignore


def test_counts_and_sparsity_of_a_mask_set() -> None:
    masks = masks_of(a=[True, False, False, False], b=[True, True, False, False, False, False])
    assert masks.kept_per_layer() == {"a": 1, "b": 2}
    assert (masks.kept, masks.total) == (3, 10)
    assert masks.sparsity == pytest.approx(0.7)
    assert "3 of 10 kept" in repr(masks)
    assert MaskSet({}).sparsity == 0.0


def test_order_is_kept() -> None:
    names = ["z", "a", "m"]
    assert list(MaskSet({name: torch.ones(1, dtype=torch.bool) for name in names})) == names


def test_equal_masks_have_equal_hashes() -> None:
    mask = torch.rand(4, 3, 2, 2) < 0.5
    masks, same = MaskSet({"a": mask}), MaskSet({"a": mask.to(memory_format=torch.channels_last)})
    assert masks == same
    assert hash(masks) == hash(same)
    assert masks.hash() == same.hash()
    assert all(one.is_contiguous() for one in same.values())


def test_one_flipped_bit_another_name_or_order_is_another_mask_set() -> None:
    masks = masks_of(a=[True, False], b=[True, True])
    assert masks != masks_of(a=[False, False], b=[True, True])
    assert masks.hash() != masks_of(a=[False, False], b=[True, True]).hash()
    assert masks != masks_of(a=[True, False], c=[True, True])
    assert masks != masks_of(b=[True, True], a=[True, False])
    assert masks != {"a": 1}


def test_the_hash_is_over_the_packed_bytes_in_order() -> None:
    masks = masks_of(a=[True, False, True], b=[False] * 8 + [True])
    assert masks.hash() == hashlib.sha256(bytes([0b101, 0, 1])).hexdigest()


def test_a_mask_set_does_not_follow_the_tensor_it_was_made_of() -> None:
    mask = torch.ones(8, dtype=torch.bool)
    masks = MaskSet({"a": mask})
    before = masks.hash()
    mask[0] = False
    assert masks.hash() == before


# -- overlap ----------------------------------------------------------------------------------------


def test_overlap_counts_agreeing_elements_over_all_layers() -> None:
    a = masks_of(x=[True, True, False, False], y=[True])
    b = masks_of(x=[True, False, True, False], y=[True])
    assert mask_overlap(a, b) == pytest.approx(3 / 5)
    assert mask_overlap(a, a) == 1.0
    assert mask_overlap(masks_of(x=[True]), masks_of(x=[False])) == 0.0


def test_random_masks_at_ninety_per_cent_agree_on_82_per_cent() -> None:
    n = 400_000
    one, other = (MaskSet({"a": keep_largest(torch.rand(n), kept_count(n, "0.9"))}) for _ in range(2))
    assert mask_overlap(one, other) == pytest.approx(0.82, abs=0.003)


def test_overlap_needs_the_same_weights() -> None:
    with pytest.raises(ValueError, match="the same weights"):
        mask_overlap(masks_of(x=[True]), masks_of(y=[True]))
    with pytest.raises(ValueError, match="the same weights"):
        mask_overlap(masks_of(x=[True]), masks_of(x=[True, True]))
    with pytest.raises(ValueError, match="undefined"):
        mask_overlap(MaskSet({}), MaskSet({}))


@given(layers=models, seed=st.integers(0, 2**31))
def test_overlap_of_all_is_that_of_the_layers_weighted_by_size(layers: list[Shape], seed: int) -> None:
    a, b = random_masks(layers, seed), random_masks(layers, seed + 1)
    parts = layer_overlaps(a, b)
    assert list(parts) == list(a)
    for name, (overlap, chance) in parts.items():
        n, differing = a[name].numel(), int((a[name] != b[name]).sum())
        assert overlap == pytest.approx(1 - differing / n)
        density_a, density_b = a[name].float().mean().item(), b[name].float().mean().item()
        assert chance == pytest.approx(density_a * density_b + (1 - density_a) * (1 - density_b), abs=1e-6)
    sizes = {name: mask.numel() / a.total for name, mask in a.items()}
    assert mask_overlap(a, b) == pytest.approx(sum(sizes[name] * part.overlap for name, part in parts.items()))
    assert chance_overlap(a, b) == pytest.approx(sum(sizes[name] * part.chance for name, part in parts.items()))


def test_layer_overlaps_by_hand() -> None:
    nothing = MaskSet({"none": torch.ones(0, dtype=torch.bool)})
    a = MaskSet({**masks_of(x=[True, True, False, False], y=[True]), **nothing})
    b = MaskSet({**masks_of(x=[True, False, False, False], y=[False]), **nothing})
    found = layer_overlaps(a, b)
    assert found == {"x": (0.75, 0.5), "y": (0.0, 0.0)}
    assert found["x"].chance == 0.5  # (2·1 + 2·3) / 16
    with pytest.raises(ValueError, match="undefined"):
        layer_overlaps(nothing, nothing)


# -- arithmetic -------------------------------------------------------------------------------------


def random_masks(layers: list[Shape], seed: int) -> MaskSet:
    generator = torch.Generator().manual_seed(seed)
    return MaskSet({f"layer{i}": torch.rand(s, generator=generator) < 0.5 for i, s in enumerate(layers)})


def positions(masks: MaskSet) -> set[tuple[str, int]]:
    """A mask set as what it means: the set of weights that it keeps."""
    return {(name, i) for name, mask in masks.items() for i, kept in enumerate(mask.reshape(-1).tolist()) if kept}


@given(layers=models, seed=st.integers(0, 2**31))
def test_arithmetic_is_that_of_the_sets_of_kept_weights(layers: list[Shape], seed: int) -> None:
    a, b, c = (random_masks(layers, seed + i) for i in range(3))
    assert positions(a | b) == positions(a) | positions(b)
    assert positions(a & b) == positions(a) & positions(b)
    assert positions(a - b) == positions(a) - positions(b)
    for combined in (a | b, a & b, a - b):
        assert list(combined) == list(a)
        assert {n: m.shape for n, m in combined.items()} == {n: m.shape for n, m in a.items()}
    assert (a | b) == (b | a)
    assert (a & b) == (b & a)
    assert a | (b | c) == (a | b) | c
    assert a & (b & c) == (a & b) & c
    assert a & (b | c) == (a & b) | (a & c)
    assert a - (b | c) == (a - b) & (a - c)
    assert a | a == a & a == a
    assert (a - a).kept == 0
    assert (a - b) | (a & b) == a
    assert (a | b).kept == a.kept + b.kept - (a & b).kept
    differing = (a - b) | (b - a)
    assert mask_overlap(a, b) == pytest.approx(1 - differing.kept / a.total)


def test_arithmetic_leaves_its_operands_alone() -> None:
    a, b = masks_of(x=[True, False]), masks_of(x=[False, False])
    union = a | b
    union["x"].logical_not_()
    assert (a, b) == (masks_of(x=[True, False]), masks_of(x=[False, False]))


def test_the_order_of_the_layers_is_the_first_ones() -> None:
    a, b = masks_of(x=[True], y=[False]), masks_of(y=[True], x=[False])
    assert list(a | b) == ["x", "y"]
    assert list(b | a) == ["y", "x"]
    assert a & b == masks_of(x=[False], y=[False])


@pytest.mark.parametrize(
    ("what", "combine"),
    [
        ("a union", lambda a, b: a | b),
        ("an intersection", lambda a, b: a & b),
        ("a difference", lambda a, b: a - b),
        ("an overlap", layer_overlaps),
    ],
)
def test_masks_over_other_weights_are_refused_by_name(what: str, combine: Callable[[object, object], object]) -> None:
    a = masks_of(x=[True], y=[True, False])
    with pytest.raises(ValueError, match=rf"^{what} needs .* same weights: y is \(2,\) in the first and missing in"):
        combine(a, masks_of(x=[True]))
    with pytest.raises(ValueError, match=rf"^{what} needs .*: z is missing in the first and \(1,\) in the second$"):
        combine(a, masks_of(x=[True], y=[True, False], z=[True]))
    with pytest.raises(ValueError, match=r"y is \(2,\) in the first and \(1, 2\) in the second"):
        combine(a, MaskSet({"x": torch.tensor([True]), "y": torch.tensor([[True, True]])}))


def test_what_is_no_mask_set_takes_no_part() -> None:
    with pytest.raises(TypeError):
        _ = masks_of(x=[True]) | {"x": torch.tensor([True])}
