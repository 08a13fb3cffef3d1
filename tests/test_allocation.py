"""Sharing out a budget: floors, sparsities of single layers, N:M patterns, and what two masks share by chance."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import ceil, isfinite, isnan, prod

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from timm_jackpot.adapter import ScoreAdapter, attach
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import (
    ALLOCATIONS,
    MaskSet,
    allocate,
    chance_overlap,
    is_n_of_m,
    keep_largest,
    keep_n_of_m,
    kept_count,
    mask_overlap,
    parse_overrides,
    scale_counts,
)
from timm_jackpot.training import cubic_ramp

Shape = tuple[int, ...]

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
models = st.lists(shapes, min_size=1, max_size=6)
sparsities = st.integers(0, 9_999).map(lambda k: f"{k / 10_000:.4f}")
every_allocation = pytest.mark.parametrize("name", ALLOCATIONS)


def random_scores(layers: list[Shape], *, levels: int = 1000) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(layers))
    return {f"layer{i}": torch.randint(levels, shape, generator=generator).float() for i, shape in enumerate(layers)}


# -- floors -----------------------------------------------------------------------------------------


@every_allocation
@given(layers=models, sparsity=sparsities, sixteenths=st.integers(0, 16), minimum=st.integers(0, 3))
def test_floors_are_kept_and_the_total_is_exact_or_the_budget_is_refused(
    name: str, layers: list[Shape], sparsity: str, sixteenths: int, minimum: int
) -> None:
    scores = random_scores(layers)
    sizes = list(map(prod, layers))
    floors = [max(min(minimum, size), ceil(Fraction(sixteenths * size, 16))) for size in sizes]
    total = kept_count(sum(sizes), sparsity)
    arguments = {"minimum": minimum, "min_density": sixteenths / 16}
    if sum(floors) > total:
        with pytest.raises(ConfigError, match="need at least"):
            allocate(name, scores, sparsity, **arguments)
        return
    counts = allocate(name, scores, sparsity, **arguments)
    assert list(counts) == list(scores)
    assert sum(counts.values()) == total
    assert all(low <= kept <= n for low, kept, n in zip(floors, counts.values(), sizes, strict=True))


@every_allocation
@given(layers=models, sparsity=sparsities, sixteenths=st.integers(0, 15))
def test_floors_that_hold_already_change_nothing(
    name: str, layers: list[Shape], sparsity: str, sixteenths: int
) -> None:
    scores = random_scores(layers)
    free = allocate(name, scores, sparsity)
    assume(all(16 * kept >= sixteenths * prod(shape) for kept, shape in zip(free.values(), layers, strict=True)))
    assert allocate(name, scores, sparsity, min_density=sixteenths / 16) == free


def test_a_layer_is_lifted_to_its_floor_and_the_largest_surplus_pays() -> None:
    scores = {"weak": torch.zeros(100), "strong": torch.arange(1.0, 1001), "middling": torch.full((100,), 5000.0)}
    assert allocate("global", scores, "0.75") == {"weak": 0, "strong": 200, "middling": 100}
    floored = allocate("global", scores, "0.75", min_density=0.1)
    assert floored == {"weak": 10, "strong": 190, "middling": 100}


def test_a_floor_of_the_whole_layer_keeps_all_of_it_where_nothing_is_removed() -> None:
    scores = random_scores([(3, 5), (7,)])
    assert allocate("global", scores, "0", min_density=1.0) == {"layer0": 15, "layer1": 7}


def test_floors_that_the_budget_cannot_pay_for_are_one_sentence() -> None:
    with pytest.raises(ConfigError) as refused:
        allocate("global", random_scores([(10, 10), (10, 20)]), "0.9", min_density=0.25)
    assert str(refused.value) == (
        "sparsity 0.9 leaves 30 weights to 2 layers, but they need at least 75: lower the sparsity"
    )


@pytest.mark.parametrize(("sparsity", "density"), [("0.45", 0.55), ("0.93", 0.07), ("0.86", 0.14)])
def test_a_floor_is_read_as_an_exact_decimal(sparsity: str, density: float) -> None:
    scores = {"a": torch.rand(100)}
    assert allocate("uniform", scores, sparsity, min_density=density) == {"a": round(100 * density)}


# -- sparsities of single layers --------------------------------------------------------------------


@every_allocation
@given(layers=models, sparsity=sparsities, own=st.lists(st.none() | sparsities, min_size=6, max_size=6))
def test_overrides_are_exact_and_the_others_share_exactly_the_rest(
    name: str, layers: list[Shape], sparsity: str, own: list[str | None]
) -> None:
    scores = random_scores(layers)
    overrides = {layer: s for layer, s in zip(scores, own, strict=False) if s is not None}
    fixed = {layer: kept_count(scores[layer].numel(), s) for layer, s in overrides.items()}
    free = {layer: values for layer, values in scores.items() if layer not in fixed}
    assume(free)
    total = kept_count(sum(map(prod, layers)), sparsity)
    rest = total - sum(fixed.values())
    if not 0 <= rest <= sum(values.numel() for values in free.values()):
        with pytest.raises(ConfigError, match="raise their sparsity" if rest < 0 else "raise the sparsity"):
            allocate(name, scores, sparsity, overrides=overrides)
        return
    counts = allocate(name, scores, sparsity, overrides=overrides)
    assert list(counts) == list(scores)
    assert sum(counts.values()) == total
    assert {layer: counts[layer] for layer in fixed} == fixed
    # The others are shared out as a model of their own would be, of which `rest` weights are kept.
    n = sum(values.numel() for values in free.values())
    digits = Decimal(n - rest) / Decimal(n)
    if digits < 1 and kept_count(n, digits) == rest:
        assert {layer: counts[layer] for layer in free} == allocate(name, free, digits)


@every_allocation
def test_overrides_and_floors_go_together(name: str) -> None:
    scores = random_scores([(20, 10), (40, 10), (10, 10), (30, 10)])
    counts = allocate(
        name, scores, "0.8", minimum=1, min_density=0.125, overrides={"layer0": "0.9", "layer2": Decimal("0.5")}
    )
    assert (counts["layer0"], counts["layer2"]) == (20, 50)  # below the floor if that is what was asked for
    assert sum(counts.values()) == 200
    assert counts["layer1"] >= 50
    assert counts["layer3"] >= 38


def test_an_override_may_empty_a_layer_or_leave_it_dense() -> None:
    scores = random_scores([(10,), (100,)])
    assert allocate("global", scores, "0.9", minimum=1, overrides={"layer0": "0"}) == {"layer0": 10, "layer1": 1}
    assert allocate("global", scores, "0.9", minimum=1, overrides={"layer0": "0.99"}) == {"layer0": 0, "layer1": 11}


@pytest.mark.parametrize(
    ("sparsity", "overrides", "message"),
    [
        (
            "0.9",
            {"a": "0"},
            "layers with their own sparsity keep 100 weights, more than the 30 that sparsity 0.9 leaves in total",
        ),
        (
            "0.1",
            {"a": "0.9"},
            "sparsity 0.1 leaves 260 weights to 2 layers without their own sparsity, which have only 200: raise the",
        ),
        (
            "0.5",
            {"a": "0.5", "b": "0.5", "c": "0.6"},
            "sparsity 0.5 leaves 10 weights to 0 layers without their own sparsity, which have only 0: raise the",
        ),
    ],
)
def test_overrides_that_leave_too_little_or_too_much_are_one_sentence(
    sparsity: str, overrides: dict[str, str], message: str
) -> None:
    scores = {name: torch.rand(100) for name in "abc"}
    with pytest.raises(ConfigError) as refused:
        allocate("uniform", scores, sparsity, overrides=overrides)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "global",
        "uniform",
        "erk",
    ],
)
def test_overrides_of_all_layers_that_agree_with_the_budget_are_taken(name: str) -> None:
    scores = {name: torch.rand(100) for name in "abc"}
    overrides = {"a": "0.4", "b": "0.5", "c": "0.6"}
    assert allocate(name, scores, "0.5", overrides=overrides) == {"a": 60, "b": 50, "c": 40}


# -- patterns of layers -----------------------------------------------------------------------------

NAMES = ["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight", "a=b.weight"]


def test_patterns_give_the_sparsity_of_what_they_match() -> None:
    found = parse_overrides(["layer1.*=0.5", "conv1.weight=0", "a=b.*=0.25"], iter(NAMES))
    assert found == {
        "layer1.0.conv1.weight": Decimal("0.5"),
        "layer1.1.conv1.weight": Decimal("0.5"),
        "conv1.weight": Decimal(0),
        "a=b.weight": Decimal("0.25"),
    }
    assert parse_overrides([], NAMES) == {}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            ["layer1.*"],
            "--layer-sparsity takes pattern=value, not 'layer1.*', e.g. --layer-sparsity 'layer1.*=0.5'",
        ),
        (
            ["layer1.0.conv2.weight=0.5"],
            "--layer-sparsity 'layer1.0.conv2.weight' matches no masked layer: the nearest are ",
        ),
        (["Layer1.*=0.5"], "--layer-sparsity 'Layer1.*' matches no masked layer"),
        (["=0.5"], "--layer-sparsity '' matches no masked layer"),
        (
            ["layer1.*=0.5", "*.0.conv1.weight=0.6"],
            "--layer-sparsity 'layer1.*' and '*.0.conv1.weight' both match layer1.0.conv1.weight: make them disjoint",
        ),
        (["conv1.*=0.5", "conv1.*=0.5"], "both match conv1.weight: make them disjoint"),
        (["layer1.*=1"], "sparsity '1' is not a number in [0, 1)"),
        (["layer1.*=-0.1"], "sparsity '-0.1' is not a number in [0, 1)"),
        (["layer1.*=half"], "sparsity 'half' is not a number in [0, 1)"),
        (["layer1.*="], "sparsity '' is not a number in [0, 1)"),
        (["layer1.*=nan"], "sparsity 'nan' is not a number in [0, 1)"),
    ],
)
def test_patterns_that_make_no_sense_are_one_sentence(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_overrides(pairs, NAMES)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_nearest_names_are_named() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_overrides(["layer1.0.conv9.weight=0.5"], NAMES)
    nearest = str(refused.value).partition("the nearest are ")[2].split(", ")
    assert nearest[0] == "layer1.0.conv1.weight"
    assert set(nearest) < set(NAMES)
    with pytest.raises(ConfigError, match="there are none"):
        parse_overrides(["layer1.*=0.5"], [])


# -- N:M --------------------------------------------------------------------------------------------

patterns = st.sampled_from([(1, 2), (1, 4), (2, 4), (3, 4), (4, 8), (1, 3), (2, 5)])
kernels = st.lists(st.integers(1, 3), max_size=2).map(tuple)


def groups_of(shape: Shape, m: int) -> Iterator[list[Shape]]:
    """Positions of every m consecutive weights along dim 1, by counting."""
    for o, g, *kernel in product(range(shape[0]), range(shape[1] // m), *map(range, shape[2:])):
        yield [(o, g * m + i, *kernel) for i in range(m)]


def naive_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for group in groups_of(tuple(scores.shape), m):
        for position in sorted(group, key=lambda at: (-scores[at].item(), at[1]))[:n]:
            mask[position] = True
    return mask


@given(pattern=patterns, out=st.integers(1, 4), groups=st.integers(1, 3), kernel=kernels, levels=st.integers(1, 50))
def test_n_of_m_is_what_sorting_each_group_would_keep(
    pattern: tuple[int, int], out: int, groups: int, kernel: Shape, levels: int
) -> None:
    n, m = pattern
    shape = (out, groups * m, *kernel)
    scores = torch.randint(levels, shape, generator=torch.Generator().manual_seed(prod(shape))).float() - levels // 2
    mask = keep_n_of_m(scores, n, m)
    assert mask.dtype == torch.bool
    assert mask.is_contiguous()
    assert torch.equal(mask, naive_n_of_m(scores, n, m))
    assert is_n_of_m(mask, n, m)
    assert int(mask.count_nonzero()) == mask.numel() // m * n


def test_groups_lie_along_the_inputs_and_ties_go_by_position() -> None:
    assert keep_n_of_m(torch.zeros(2, 8), 2, 4).int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]] * 2
    mask = keep_n_of_m(torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0, -1.0, -0.0, -2.0]]), 2, 4)
    assert mask.int().tolist() == [[0, 1, 1, 0, 1, 0, 1, 0]]
    conv = torch.zeros(1, 4, 1, 2)
    conv[0, :, 0, 0], conv[0, :, 0, 1] = torch.tensor([1.0, 2, 3, 4]), torch.tensor([4.0, 3, 2, 1])
    assert keep_n_of_m(conv, 2, 4)[0, :, 0].int().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_memory_format_does_not_change_the_pattern() -> None:
    scores = torch.randint(3, (6, 8, 3, 3)).float()
    expected = keep_n_of_m(scores, 2, 4)
    last = keep_n_of_m(scores.to(memory_format=torch.channels_last), 2, 4)
    strided = keep_n_of_m(torch.empty(6, 8, 3, 6)[..., ::2].copy_(scores), 2, 4)
    assert torch.equal(last, expected)
    assert torch.equal(strided, expected)
    assert last.is_contiguous()


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [2, 10_000_000])
def test_a_gpu_keeps_the_same_pattern(levels: int) -> None:
    scores = torch.randint(levels, (64, 96, 3, 3)).float()
    for n, m in ((1, 2), (2, 4), (5, 32)):
        expected = keep_n_of_m(scores, n, m)
        assert torch.equal(keep_n_of_m(scores.to("cuda"), n, m).cpu(), expected)
        last = keep_n_of_m(scores.to("cuda", memory_format=torch.channels_last), n, m)
        assert torch.equal(last.cpu(), expected)


def test_scores_that_are_trained_give_a_pattern_without_gradient() -> None:
    assert not keep_n_of_m(torch.rand(4, 8, requires_grad=True), 2, 4).requires_grad


@pytest.mark.parametrize(("shape", "pattern"), [((4, 6), (2, 4)), ((8,), (2, 4)), ((4, 8), (4, 4)), ((4, 8), (0, 4))])
def test_what_no_pattern_fits_is_not_taken(shape: Shape, pattern: tuple[int, int]) -> None:
    with pytest.raises(AssertionError):
        keep_n_of_m(torch.rand(shape), *pattern)


@given(pattern=patterns, out=st.integers(1, 3), groups=st.integers(1, 3), kernel=kernels, seed=st.integers(0, 9))
def test_a_pattern_is_recognised_in_every_group(
    pattern: tuple[int, int], out: int, groups: int, kernel: Shape, seed: int
) -> None:
    n, m = pattern
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(out, groups * m, *kernel, generator=generator) < n / m
    counts = [sum(bool(mask[at]) for at in group) for group in groups_of(tuple(mask.shape), m)]
    assert is_n_of_m(mask, n, m) == all(count == n for count in counts)
    sound = keep_n_of_m(torch.rand(mask.shape, generator=generator), n, m)
    position = tuple(int(torch.randint(size, (), generator=generator)) for size in sound.shape)
    sound[position] = ~sound[position]
    assert not is_n_of_m(sound, n, m)


def test_a_mask_without_whole_groups_is_no_pattern() -> None:
    assert not is_n_of_m(torch.tensor([True, True, False, False]), 2, 4)
    assert not is_n_of_m(torch.tensor([[True, True, False, False, True, True]]), 2, 4)
    assert not is_n_of_m(torch.tensor([[True, True, True, False, True, False, False, False]]), 2, 4)
    assert is_n_of_m(torch.tensor([[True, True, True, False, True, False, False, False]]), 4, 8)


# -- N:M in the adapter -----------------------------------------------------------------------------


def attached(kept: int, scores: Tensor, pattern: tuple[int, int] = (2, 4)) -> ScoreAdapter:
    model = nn.Sequential(nn.Conv2d(scores.shape[1], scores.shape[0], tuple(scores.shape[2:]), bias=False))
    return attach(model, {"0.weight": scores}, {"0.weight": kept}, n_of_m=pattern)


@given(more=st.integers(0, 72), seed=st.integers(0, 5), levels=st.sampled_from([3, 1000]))
def test_a_count_above_the_pattern_keeps_it_and_the_largest_others(more: int, seed: int, levels: int) -> None:
    shape = (2, 8, 3, 3)
    scores = torch.randint(levels, shape, generator=torch.Generator().manual_seed(seed)).float()
    pattern = naive_n_of_m(scores, 2, 4)
    others = sorted((~pattern).flatten().nonzero().flatten().tolist(), key=lambda i: (-scores.flatten()[i].item(), i))
    expected = pattern.flatten().clone()
    expected[others[:more]] = True
    mask = attached(72 + more, scores)["0.weight"].mask()
    assert torch.equal(mask.flatten(), expected)


def test_a_schedule_ends_in_exactly_the_pattern() -> None:
    scores = torch.randn(6, 8, 3, 3)
    sizes, final = {"0.weight": 432}, {"0.weight": 216}
    adapter = attached(432, scores)
    for step in range(11):
        counts = scale_counts(sizes, final, cubic_ramp(step, 10, fraction=0.8))
        adapter.refresh(counts)
        masks = adapter.masks()
        assert masks.kept_per_layer() == counts
        assert bool((masks["0.weight"] | ~keep_n_of_m(scores, 2, 4)).all())  # the pattern is in it all the way
        assert torch.equal(adapter["0.weight"](torch.ones(scores.shape)) != 0, masks["0.weight"])
    assert is_n_of_m(masks["0.weight"], 2, 4)
    assert torch.equal(masks["0.weight"], keep_n_of_m(scores, 2, 4))


def test_the_pattern_follows_the_scores() -> None:
    adapter = attached(32, torch.rand(8, 8, 1, 1))
    layer = adapter["0.weight"]
    before = layer.mask()
    with torch.no_grad():
        layer.scores.neg_()
    adapter.refresh({"0.weight": 32})
    assert torch.equal(layer.mask(), ~before)  # the two smallest of four are the largest now


def test_a_channels_last_weight_has_the_same_pattern() -> None:
    scores = torch.rand(6, 8, 3, 3)
    model = nn.Sequential(nn.Conv2d(8, 6, 3, bias=False)).to(memory_format=torch.channels_last)
    layer = attach(model, {"0.weight": scores}, {"0.weight": 216}, n_of_m=(2, 4))["0.weight"]
    assert layer.threshold.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer.mask(), keep_n_of_m(scores, 2, 4))
    assert torch.equal(model[0].weight != 0, keep_n_of_m(scores, 2, 4))


def test_without_a_pattern_the_largest_are_kept_wherever_they_are() -> None:
    scores = torch.rand(6, 8, 1, 1)
    model = nn.Sequential(nn.Conv2d(8, 6, 1, bias=False))
    layer = attach(model, {"0.weight": scores}, {"0.weight": 24})["0.weight"]
    assert torch.equal(layer.mask(), keep_largest(scores, 24))
    assert not is_n_of_m(layer.mask(), 2, 4)


def test_a_score_that_is_no_number_is_never_kept_silently() -> None:
    """Nor does a pattern make a score of it."""
    adapter = attached(32, torch.rand(8, 8, 1, 1))
    layer = adapter["0.weight"]
    assert isfinite(adapter.score_sums()[0])
    with torch.no_grad():
        layer.scores[3, 3] = torch.nan
    layer.refresh(32)
    assert int(layer.mask().count_nonzero()) != 32
    assert isnan(adapter.score_sums()[0])


# -- overlap by chance ------------------------------------------------------------------------------


def random_masks(kept: dict[str, int], n: int, seed: int) -> MaskSet:
    generator = torch.Generator().manual_seed(seed)
    return MaskSet({name: keep_largest(torch.rand(n, generator=generator), count) for name, count in kept.items()})


@pytest.mark.parametrize(
    ("sparsity", "chance"), [("0.9", 0.82), ("0.95", 0.905), ("0.5", 0.5), ("0", 1.0), ("0.99", 0.9802)]
)
def test_chance_at_one_density_is_d_squared_and_its_complement(sparsity: str, chance: float) -> None:
    n = 10_000
    masks = random_masks({"a": kept_count(n, sparsity), "b": kept_count(n, sparsity)}, n, 0)
    assert chance_overlap(masks, masks) == pytest.approx(chance)


@given(
    first=st.lists(st.integers(0, 4000), min_size=3, max_size=3),
    second=st.lists(st.integers(0, 4000), min_size=3, max_size=3),
)
def test_random_masks_overlap_by_chance(first: list[int], second: list[int]) -> None:
    a = random_masks(dict(zip("xyz", first, strict=True)), 4000, 1)
    b = random_masks(dict(zip("xyz", second, strict=True)), 4000, 2)
    chance = chance_overlap(a, b)
    assert chance == pytest.approx(
        sum(p * q + (4000 - p) * (4000 - q) for p, q in zip(first, second, strict=True)) / (3 * 4000**2)
    )
    assert chance == chance_overlap(b, a)
    assert mask_overlap(a, b) == pytest.approx(chance, abs=0.025)  # five standard deviations of hypergeometric draws


def test_layers_count_by_their_weights() -> None:
    masks = MaskSet({"half": torch.tensor([True, False] * 500), "dense": torch.ones(3000, dtype=torch.bool)})
    assert chance_overlap(masks, masks) == pytest.approx((1000 * 0.5 + 3000) / 4000)


def test_an_empty_layer_counts_for_nothing() -> None:
    half = torch.tensor([True, False])
    one = MaskSet({"half": half})
    two = MaskSet({"half": half, "none": torch.ones(0, 4, dtype=torch.bool)})
    assert chance_overlap(two, two) == chance_overlap(one, one) == 0.5


def test_chance_needs_masks_over_the_same_weights() -> None:
    one = MaskSet({"a": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="same weights"):
        chance_overlap(one, MaskSet({"b": torch.ones(3, dtype=torch.bool)}))
    with pytest.raises(ValueError, match="same weights"):
        chance_overlap(one, MaskSet({"a": torch.ones(4, dtype=torch.bool)}))
    with pytest.raises(ValueError, match="undefined"):
        chance_overlap(MaskSet({}), MaskSet({}))


# -- the ramp that does not start dense -------------------------------------------------------------


@given(steps=st.integers(1, 300), fraction=st.floats(0, 1), start=st.floats(0, 1))
def test_the_ramp_rises_from_its_start_to_one(steps: int, fraction: float, start: float) -> None:
    path = [cubic_ramp(step, steps, fraction=fraction, start=start) for step in range(steps + 1)]
    assert path[0] == (pytest.approx(start) if fraction * steps > 0 else 1.0)
    assert path[-1] == 1.0
    assert path == sorted(path)
    assert all(start - 1e-12 <= share <= 1 for share in path)


@given(steps=st.integers(1, 300), fraction=st.floats(0.1, 1), start=st.floats(0, 1), step=st.integers(0, 300))
def test_a_start_squeezes_the_ramp_from_zero(steps: int, fraction: float, start: float, step: int) -> None:
    plain = cubic_ramp(step, steps, fraction=fraction)
    assert cubic_ramp(step, steps, fraction=fraction, start=start) == pytest.approx(start + (1 - start) * plain)
    assert cubic_ramp(step, steps, fraction=fraction, start=1.0) == 1.0
