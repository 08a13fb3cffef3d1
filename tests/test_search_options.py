"""What a search can be asked for: criteria, N:M, floors, mixing, norms, heads, random bases. On some of the digits."""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import timm
import torch
import yaml
from one_epoch import one_epoch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from timm_jackpot.artifact import from_pretrained, read_artifact
from timm_jackpot.base import (
    base_from_module,
    classifier_parameters,
    load_base,
    maskable_weights,
    norm_affine,
    norm_statistics,
    tensor_ids,
)
from timm_jackpot.cli import parse
from timm_jackpot.criteria import grasp, magnitude, random, synflow
from timm_jackpot.data import Batch
from timm_jackpot.data.digits import digits_split
from timm_jackpot.errors import ArtifactError, BaseError, ConfigError, DataError
from timm_jackpot.masks import (
    MaskSet,
    allocate,
    chance_overlap,
    is_n_of_m,
    keep_largest,
    keep_n_of_m,
    kept_count,
    mask_overlap,
    pack,
    unpack,
)
from timm_jackpot.methods.budget import n_of_m
from timm_jackpot.methods.start import Start, proportional_scores, starved_notice
from timm_jackpot.runtime.processes import Shard, make_accelerator
from timm_jackpot.search import SearchConfig, SearchResult, search_jackpot
from timm_jackpot.search.table import comparison_table
from timm_jackpot.search.task import open_task
from timm_jackpot.training import TrainFlags, make_mixer, read_record

PLAIN = {"steps": 3, "lr": 0.5, "val_fraction": 0.0}
TRAIN, TEST = 160, 60  # images


@pytest.fixture(scope="module", autouse=True)
def _small_and_fast() -> Iterator[None]:
    """These runs are about settings: fewer images, no pictures, and no search for garbage that is older than they."""
    parts = {split: tuple(t[:n] for t in digits_split(split)) for split, n in (("train", TRAIN), ("test", TEST))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm_jackpot.data.read.digits_split", lambda split, _: parts[split])
        patch.setattr("timm_jackpot.search.save.find_spec", lambda _: None)
        patch.setattr("timm_jackpot.methods.start._CRITERION_IMAGES", 16)
        gc.freeze()
        yield
        gc.unfreeze()


def _search(folder: Path, **settings: object) -> SearchResult:
    """A short search, after which the base is as it was."""
    result = search_jackpot(SearchConfig(**{"steps": 2, "batch_size": 32, "output": str(folder), **settings}))
    base, jackpot = result.jackpot.base, result.jackpot
    assert tensor_ids(base.model) == base.tensors
    assert not set(jackpot.masks) & set(jackpot.extras)
    return result


def searched_logits(result: SearchResult, images: Tensor) -> Tensor:
    with torch.no_grad():
        return result.model(images)


def assert_loads_as_searched(result: SearchResult, **arguments: object) -> nn.Module:
    loaded = from_pretrained(result.summary["artifact"], **arguments)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), searched_logits(result, images))
    return loaded


def roles(result: SearchResult) -> dict[str, str]:
    artifact = read_artifact(result.summary["artifact"])
    found = {extra.name: extra.role for extra in artifact.config.extras}
    assert found == {name: extra.role for name, extra in result.jackpot.extras.items()}
    assert set(artifact.extras) == set(found)
    return found


def steps_of(result: SearchResult) -> list[dict[str, Any]]:
    return list(read_record(Path(result.summary["artifact"]) / "record.jsonl").of("step"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """What the runs below differ from in one setting."""
    return _search(tmp_path_factory.mktemp("plain") / "a", **PLAIN)


# -- criteria ---------------------------------------------------------------------------------------

CRITERIA = ("magnitude", "snip", "grasp", "obd", "synflow", "random")


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SearchResult]:
    folder = tmp_path_factory.mktemp("one_shot")
    return {name: _search(folder / name, criterion=name, steps=0, recalibrate_batches=0) for name in CRITERIA}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_search_from_any_criterion_starts_at_its_one_shot_mask(
    one_shot: dict[str, SearchResult], criterion: str, tmp_path: Path
) -> None:
    start = one_shot[criterion].jackpot.masks
    assert start.kept == kept_count(start.total, "0.9")
    assert min(start.kept_per_layer().values()) >= 1
    result = _search(tmp_path / "s", criterion=criterion, steps=4, lr=0.5)
    found = result.jackpot.masks
    assert found != start
    assert found.kept_per_layer() == start.kept_per_layer()
    assert result.summary["overlap_start"] == mask_overlap(found, start) < 1
    assert result.summary["overlap_chance"] == chance_overlap(found, start) < result.summary["overlap_start"]
    assert one_shot[criterion].summary["overlap_start"] == 1
    assert_loads_as_searched(result)


def test_without_steps_the_mask_is_the_criterions(one_shot: dict[str, SearchResult]) -> None:
    model = load_base("digits_resnet").model
    weights = maskable_weights(model).weights
    known = {
        "magnitude": magnitude(weights),
        "random": random(weights, seed=0),
        "synflow": synflow(model, weights, (3, 32, 32)),
    }
    for criterion, values in known.items():
        kept = allocate("erk", values, "0.9", minimum=1)
        expected = MaskSet({name: keep_largest(v, kept[name]) for name, v in values.items()})
        assert one_shot[criterion].jackpot.masks == expected
    assert len({result.jackpot.masks.hash() for result in one_shot.values()}) == len(CRITERIA)
    for result in one_shot.values():
        assert_loads_as_searched(result)


def test_the_magnitude_control_is_the_same_beside_every_criterion(one_shot: dict[str, SearchResult]) -> None:
    summaries = [result.summary for result in one_shot.values()]
    for figure in ("dense_top1", "magnitude_top1", "magnitude_recalibrated_top1"):
        assert len({summary[figure] for summary in summaries}) == 1
    first = one_shot["magnitude"].summary
    assert first["jackpot_top1"] == first["magnitude_top1"]


@pytest.mark.parametrize("change", [{"criterion_batches": 2}, {"seed": 1}])
def test_other_images_are_another_snip(
    one_shot: dict[str, SearchResult], change: dict[str, int], tmp_path: Path
) -> None:
    other = _search(tmp_path / "o", criterion="snip", steps=0, recalibrate_batches=0, **change).jackpot.masks
    snip = one_shot["snip"].jackpot.masks
    assert other != snip
    assert mask_overlap(other, snip) > chance_overlap(other, snip) + 0.02


def test_a_criterion_averages_over_the_first_batches_of_its_seed_also_past_an_epoch(tmp_path: Path) -> None:
    settings = {"criterion": "grasp", "steps": 0, "criterion_batches": 12, "seed": 1, "recalibrate_batches": 0}
    found = _search(tmp_path / "s", **settings).jackpot.masks
    task, _ = open_task(SearchConfig(), None, make_accelerator(seed=0))
    train = task.data.train
    epochs = [one_epoch(train, seed=257, epoch=epoch, batch_size=16, shard=Shard()) for epoch in (0, 1)]
    batches = [batch for epoch in epochs for batch in epoch]
    assert len(batches) // 2 < 12 < len(batches)
    values = grasp(task.base.model, task.maskable.weights, batches[:12])
    kept = found.kept_per_layer()
    assert found == MaskSet({name: keep_largest(v, kept[name]) for name, v in values.items()})


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_first_scores_have_their_size_whatever_the_criterions(size: float) -> None:
    scores = proportional_scores({"a": size * torch.tensor([3.0, -4.0])}, 0.02)["a"]
    torch.testing.assert_close(scores, 0.02 * 2**0.5 / 5 * torch.tensor([3.0, -4.0]))


# -- N:M --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_of_four(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return _search(tmp_path_factory.mktemp("nm") / "a", allocation="2:4", steps=6, lr=0.5)


def test_every_masked_layer_keeps_two_of_four(two_of_four: SearchResult) -> None:
    config = read_artifact(two_of_four.summary["artifact"]).config
    assert config.allocation.model_dump() == {"name": "n:m", "n": 2, "m": 4}
    assert config.sparsity.requested == "0.5"
    masks = two_of_four.jackpot.masks
    assert 2 * masks.kept == masks.total
    assert two_of_four.summary["sparsity"] == 0.5
    for mask in masks.values():
        groups = mask.transpose(0, 1).reshape(mask.shape[1] // 4, 4, -1)  # by hand: four inputs in a row
        assert (groups.sum(1) == 2).all()
    assert_loads_as_searched(two_of_four)


def test_the_search_moves_the_pattern_of_the_largest(two_of_four: SearchResult) -> None:
    weights = maskable_weights(load_base("digits_resnet").model).weights
    masks = two_of_four.jackpot.masks
    largest = MaskSet({name: keep_n_of_m(weights[name].detach().abs(), 2, 4) for name in masks})
    assert masks != largest
    assert two_of_four.summary["overlap_start"] == mask_overlap(masks, largest)
    assert two_of_four.summary["overlap_chance"] == chance_overlap(masks, largest) == 0.5


def test_sparsity_rises_to_the_pattern(two_of_four: SearchResult) -> None:
    sparsities = [event["sparsity"] for event in steps_of(two_of_four)]
    assert sparsities[0] == 0
    assert sparsities[-1] == 0.5


def test_without_steps_the_largest_of_every_group_are_kept(tmp_path: Path) -> None:
    result = _search(tmp_path / "z", allocation="1:4", steps=0, criterion="random", mask_classifier=True)
    scores = random(maskable_weights(result.jackpot.base.model, mask_classifier=True).weights, seed=0)
    assert "fc.weight" in result.jackpot.masks
    masks = result.jackpot.masks
    assert result.summary["sparsity"] == 0.75
    # The scores are drawn one layer after the other, and the first has three inputs.
    left = {weight.name for weight in result.jackpot.maskable.dense}
    assert set(scores) - set(masks) == left == {"conv1.0.weight"}
    assert all(is_n_of_m(mask, 1, 4) for mask in masks.values())
    assert_loads_as_searched(result)


def test_layers_that_a_pattern_does_not_fit_are_left_dense_with_the_reason(two_of_four: SearchResult) -> None:
    config = read_artifact(two_of_four.summary["artifact"]).config
    assert {weight.name: weight.reason for weight in config.dense} == {
        "fc.weight": "classifier",
        "conv1.0.weight": "its 3 input channels are not a multiple of 4",
    }
    all_weights = maskable_weights(two_of_four.jackpot.base.model).weights
    assert list(two_of_four.jackpot.masks) == [name for name in all_weights if name != "conv1.0.weight"]


def test_strict_refuses_the_layer_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        _search(tmp_path / "s", allocation="2:4", strict=True)
    assert str(refused.value) == (
        "--allocation 2:4 does not fit conv1.0.weight of shape (16, 3, 3, 3): its dim 1 is not a multiple of 4 "
        "(without --strict, the layer is left dense)"
    )
    assert list(tmp_path.iterdir()) == []


def test_strict_takes_what_fits(tmp_path: Path) -> None:
    result = _search(tmp_path / "s", allocation="2:4", strict=True, exclude=("conv1.0.weight",), steps=0)
    assert {weight.reason for weight in result.jackpot.maskable.dense} == {"classifier", "excluded"}


def test_where_no_layer_fits_there_is_nothing_to_mask(tmp_path: Path) -> None:
    with pytest.raises(
        BaseError, match=r"nothing to mask.*conv1\.0\.weight \(its 3 input channels are not a multiple of 4"
    ):
        _search(tmp_path / "n", allocation="2:4", include=("conv1.0.weight",))
    assert list(tmp_path.iterdir()) == []


def test_a_mask_that_breaks_its_pattern_is_refused(two_of_four: SearchResult, tmp_path: Path) -> None:
    """One weight moved to the next group: every count and every hash agrees again."""
    shutil.copytree(two_of_four.summary["artifact"], tmp_path / "t")
    with hostile.forged(tmp_path / "t") as pieces:
        layer = pieces.config["layers"][2]
        packed = torch.frombuffer(bytearray(pieces.masks[layer["name"]]), dtype=torch.uint8)
        mask = unpack(packed, layer["shape"])
        mask[0, :8, 1, 1] = torch.tensor([True, True, True, False, True, False, False, False])
        pieces.masks[layer["name"]] = pack(mask).numpy().tobytes()
    for load in (read_artifact, from_pretrained):
        with pytest.raises(ArtifactError) as refused:
            load(tmp_path / "t")
        assert str(refused.value) == (
            f"masks.safetensors: {layer['name']} does not keep 2 of every 4 weights, as config.json says"
        )


def test_the_same_edit_that_keeps_the_pattern_is_another_artifact(two_of_four: SearchResult, tmp_path: Path) -> None:
    shutil.copytree(two_of_four.summary["artifact"], tmp_path / "t")
    with hostile.forged(tmp_path / "t") as pieces:
        layer = pieces.config["layers"][2]
        packed = torch.frombuffer(bytearray(pieces.masks[layer["name"]]), dtype=torch.uint8)
        mask = unpack(packed, layer["shape"])
        mask[0, :8, 1, 1] = torch.tensor([True, True, False, False, True, False, True, False])
        pieces.masks[layer["name"]] = pack(mask).numpy().tobytes()
    assert from_pretrained(tmp_path / "t") is not None


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        ({"name": "n:m", "n": 1, "m": 4}, "does not keep 1 of every 4 weights"),
        ({"name": "n:m", "n": 2, "m": 8}, "does not keep 2 of every 8 weights"),
        ({"name": "n:m", "n": 2, "m": 3}, "does not keep 2 of every 3 weights"),
        ({"name": "n:m", "n": None, "m": None}, "n and m must be set for the allocation n:m"),
        ({"name": "n:m", "n": 2, "m": None}, "n and m must be set for the allocation n:m"),
        ({"name": "global", "n": 2, "m": 4}, "n and m must be set for the allocation n:m"),
        ({"name": "2:4", "n": 2, "m": 4}, "allocation.name"),
        ({"name": "n:m", "n": 0, "m": 4}, "allocation.n"),
    ],
)
def test_an_allocation_that_is_not_the_masks_is_refused(
    two_of_four: SearchResult, tmp_path: Path, allocation: dict[str, object], message: str
) -> None:
    shutil.copytree(two_of_four.summary["artifact"], tmp_path / "t")
    with hostile.edited(tmp_path / "t") as config:
        config["allocation"] = allocation
    with pytest.raises(ArtifactError, match=message):
        read_artifact(tmp_path / "t")


@pytest.mark.parametrize(
    ("allocation", "sparsity"),
    [("2:4", "0.5"), ("1:4", "0.75"), ("1:2", "0.5"), ("3:8", "0.625"), ("31:32", "0.03125")],
)
def test_a_pattern_is_a_sparsity(allocation: str, sparsity: str) -> None:
    assert SearchConfig(allocation=allocation).sparsity == sparsity
    assert SearchConfig(allocation=allocation, sparsity=sparsity).sparsity == sparsity
    assert SearchConfig(allocation=allocation, preset="paper").sparsity == sparsity
    assert parse(SearchConfig, argv=["--allocation", allocation]).sparsity == sparsity


@pytest.mark.parametrize("sparsity", ["0.9", "0.49", "0"])
def test_a_pattern_and_another_sparsity_exclude_each_other(sparsity: str) -> None:
    with pytest.raises(ConfigError, match=r"--allocation 2:4 fixes the sparsity .* at 0\.5: leave --sparsity out"):
        parse(SearchConfig, argv=["--allocation", "2:4", "--sparsity", sparsity])


def test_that_error_is_a_sentence_and_no_dump() -> None:
    with pytest.raises(ConfigError) as refused:
        parse(SearchConfig, argv=["--allocation", "2:4", "--sparsity", "0.9"])
    assert "{" not in str(refused.value)


@pytest.mark.parametrize("allocation", ["lamp", "4:2", "4:4", "0:4", "2:3", "2:4:8", "2:", ":4", "-2:4", "2:64", ""])
def test_an_unknown_allocation_is_one_sentence(allocation: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(SearchConfig, argv=[f"--allocation={allocation}"])
    assert str(refused.value) == (
        f"--allocation {allocation}: choose one of global, uniform, erk, filters, or N:M with M = 2, 4, 8, 16 or 32, "
        "such as 2:4"
    )


@pytest.mark.parametrize(
    "line",
    [
        "allocation: 2:4",
        "allocation: '2:4'",
    ],
)
def test_a_recipe_may_ask_for_a_pattern(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.yaml").write_text(f"{line}\nsteps: 3\n")
    config = parse(SearchConfig, argv=["--recipe", str(tmp_path / "r.yaml")])
    assert (n_of_m(config.allocation), config.sparsity) == ((2, 4), "0.5")


def test_the_recipe_of_an_artifact_asks_for_its_pattern(two_of_four: SearchResult) -> None:
    recipe = Path(two_of_four.summary["artifact"]) / "recipe.yaml"
    config = parse(SearchConfig, argv=["--recipe", str(recipe)])
    assert (config.allocation, config.sparsity, config.steps) == ("2:4", "0.5", 6)


@pytest.mark.parametrize("setting", [{"layer_sparsity": ("nonsense=0.3",)}, {"min_density": 0.9}])
def test_a_pattern_leaves_no_room_for_floors_and_sparsities_of_layers(
    tmp_path: Path, setting: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="2:4"):
        _search(tmp_path / "x", allocation="2:4", steps=0, **setting)


# -- the budget -------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_layers_with_a_sparsity_of_their_own_and_floors_for_the_others(tmp_path: Path, allocation: str) -> None:
    result = _search(
        tmp_path / "l",
        allocation=allocation,
        steps=0,
        sparsity="0.85",
        layer_sparsity=("layer1.*=0.5", "conv1.0.weight=0", "layer4.0.conv1.weight=0.97"),
        min_density=0.05,
    )
    masks = result.jackpot.masks
    kept, sizes = masks.kept_per_layer(), {name: mask.numel() for name, mask in masks.items()}
    assert masks.kept == kept_count(masks.total, "0.85")
    own = {name: "0.5" for name in sizes if name.startswith("layer1.")}
    own |= {"conv1.0.weight": "0", "layer4.0.conv1.weight": "0.97"}
    assert len(own) > 3
    assert {name: kept[name] for name in own} == {name: kept_count(sizes[name], s) for name, s in own.items()}
    assert all(kept[name] >= ceil(0.05 * sizes[name]) for name in set(sizes) - set(own))
    settings = read_artifact(tmp_path / "l").config.info["config"]
    assert settings["layer_sparsity"] == ["layer1.*=0.5", "conv1.0.weight=0", "layer4.0.conv1.weight=0.97"]
    assert_loads_as_searched(result)


def test_a_floor_lifts_the_layers_that_a_global_threshold_starves(
    one_shot: dict[str, SearchResult], tmp_path: Path
) -> None:
    floored = _search(tmp_path / "f", steps=0, min_density=0.08).jackpot.masks
    free = one_shot["magnitude"].jackpot.masks
    assert floored.kept == free.kept
    densities = {name: kept / floored[name].numel() for name, kept in free.kept_per_layer().items()}
    assert min(densities.values()) < 0.08
    assert all(kept / floored[name].numel() >= 0.08 for name, kept in floored.kept_per_layer().items())


@pytest.mark.parametrize(("share", "kept", "said"), [(200, 9, True), (200, 10, False), (99, 1, False)])
def test_layers_that_a_global_threshold_starves_are_named(share: int, kept: int, said: bool) -> None:
    """Half of the whole is kept (1,000 of 2,000); the first layer has `kept` weights: a twentieth of that is 2.5 %."""
    sizes = {"starved": share * 2, "fed": 2000 - share * 2}
    counts = {"starved": kept, "fed": 1000 - kept}
    notice = starved_notice(Start({name: torch.rand(n) for name, n in sizes.items()}, counts))
    assert (notice is not None) == said
    assert notice is None or ("starved" in notice and "--allocation erk" in notice)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_density": 0.2}, "but they need at least [0-9]+: lower the sparsity"),
        ({"layer_sparsity": ("layer4.*=0",)}, "with their own sparsity keep .*: raise their sparsity"),
        (
            {"layer_sparsity": ("layer*=0.99",), "sparsity": "0.5"},
            "without their own sparsity, which have only [0-9]+: raise the sparsity",
        ),
        ({"layer_sparsity": ("layer9.*=0.5",)}, "'layer9.*' matches no masked layer: the nearest are"),
        ({"layer_sparsity": ("fc.weight=0.5",)}, "'fc.weight' matches no masked layer: the nearest are"),
        ({"layer_sparsity": ("layer1.*",)}, "takes pattern=value, not 'layer1"),
        ({"layer_sparsity": ("layer1.*=0.5", "*conv1.weight=0.5")}, "both match layer1.0.conv1.weight"),
        ({"layer_sparsity": ("layer1.*=1.5",)}, "sparsity '1.5' is not a number in"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _search(tmp_path / "b", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["min-density", "schedule-start"])
@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "half"])
def test_fractions_outside_zero_to_one_are_one_sentence(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--{flag} {value}: .*"):
        parse(SearchConfig, argv=[f"--{flag}={value}"])


@pytest.mark.parametrize(("start", "first"), [(0.5, 0.45), (1.0, 0.9)])
def test_the_ramp_starts_where_it_is_told_to(plain: SearchResult, tmp_path: Path, start: float, first: float) -> None:
    result = _search(tmp_path / "r", schedule_start=start, **PLAIN)
    sparsities = [event["sparsity"] for event in steps_of(result)]  # of the first and the last step
    assert sparsities == pytest.approx([first, 0.9], abs=1e-3)
    assert steps_of(plain)[0]["sparsity"] == 0


# -- mixup and CutMix -------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_a_mixed_search_is_another(plain: SearchResult, tmp_path: Path, mixing: dict[str, float]) -> None:
    result = _search(tmp_path / "a", **mixing, **PLAIN)
    assert steps_of(result)[0]["loss"] > steps_of(plain)[0]["loss"]  # digits of two classes at once
    assert result.jackpot.masks != plain.jackpot.masks
    settings = read_artifact(tmp_path / "a").config.info["config"]
    assert mixing.items() <= settings.items()


def test_mixed_searches_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first = _search(tmp_path / "a", mixup=0.2, cutmix=1.0, **PLAIN)
    np.random.seed(1)
    again = _search(tmp_path / "b", mixup=0.2, cutmix=1.0, **PLAIN)
    assert first.jackpot.masks == again.jackpot.masks
    assert [event["loss"] for event in steps_of(first)] == [event["loss"] for event in steps_of(again)]


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_mixing_an_odd_batch_is_refused(tmp_path: Path, mixing: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="--mixup and --cutmix need an even --batch-size, not 33"):
        _search(tmp_path / "o", batch_size=33, **mixing)


def test_a_refused_batch_size_leaves_nothing(tmp_path: Path) -> None:
    with contextlib.suppress(ConfigError):
        _search(tmp_path / "o", batch_size=33, mixup=0.4)
    assert list(tmp_path.iterdir()) == []


def mixing_batch(n: int = 8) -> Batch:
    return Batch(torch.randn(n, 3, 8, 8), torch.arange(n))


def mixed(flags: TrainFlags, number: int, batch: Batch) -> Batch:
    mixer = make_mixer(flags, 8, len(batch.labels), flags.seed)
    assert mixer is not None
    return mixer(number, Batch(batch.images.clone(), batch.labels.clone()))


def test_without_mixup_and_cutmix_nothing_is_mixed() -> None:
    assert make_mixer(TrainFlags(), 10, 33, 0) is None


@pytest.mark.parametrize("number", range(3))
def test_mixup_is_a_convex_sum_of_images_and_of_labels(number: int) -> None:
    batch = mixing_batch()
    images, labels = mixed(TrainFlags(mixup=0.8), number, batch)
    own, other = (torch.eye(8)[y] for y in (batch.labels, batch.labels.flip(0)))
    share = labels[0, batch.labels[0]]
    assert 0 < share < 1
    torch.testing.assert_close(labels, share * own + (1 - share) * other)
    torch.testing.assert_close(images, share * batch.images + (1 - share) * batch.images.flip(0))


@pytest.mark.parametrize("number", range(3))
def test_cutmix_pastes_a_box_and_labels_go_by_its_area(number: int) -> None:
    batch = mixing_batch()
    images, labels = mixed(TrainFlags(cutmix=1.0), number, batch)
    pasted = (images != batch.images).any(1)
    assert torch.equal(images, torch.where(pasted[:, None], batch.images.flip(0), batch.images))
    assert torch.equal(pasted, pasted[:1].expand_as(pasted))  # one box for the whole batch
    share = 1 - pasted[0].float().mean()
    own, other = (torch.eye(8)[y] for y in (batch.labels, batch.labels.flip(0)))
    torch.testing.assert_close(labels, share * own + (1 - share) * other)


@pytest.mark.parametrize("flags", [TrainFlags(mixup=0.2), TrainFlags(cutmix=1.0), TrainFlags(mixup=0.2, cutmix=1.0)])
def test_labels_become_probabilities(flags: TrainFlags) -> None:
    for number in range(20):
        images, labels = mixed(flags, number, mixing_batch())
        assert images.shape == (8, 3, 8, 8)
        assert labels.shape == (8, 8)
        assert labels.is_floating_point()
        assert (labels >= 0).all()
        torch.testing.assert_close(labels.sum(1), torch.ones(8))


def test_a_mix_follows_the_seed_and_the_number_of_the_batch_alone() -> None:
    batch, flags = mixing_batch(), TrainFlags(mixup=0.8, cutmix=1.0, seed=3)
    first = mixed(flags, 7, batch)
    np.random.seed(5)
    torch.manual_seed(5)
    again = mixed(flags, 7, batch)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(mixed(flags, 8, batch).images, first.images)
    assert not torch.equal(mixed(TrainFlags(mixup=0.8, cutmix=1.0, seed=4), 7, batch).images, first.images)


def test_numpys_global_generator_is_put_back_even_after_an_error() -> None:
    np.random.seed(11)
    before = np.random.get_state()
    mixed(TrainFlags(mixup=0.8, cutmix=1.0), 0, mixing_batch())
    mixer = make_mixer(TrainFlags(mixup=0.8), 8, 8, 0)
    assert mixer is not None
    with pytest.raises(AssertionError):
        mixer(0, mixing_batch(7))
    after = np.random.get_state()
    assert (before[0], *before[2:]) == (after[0], *after[2:])
    assert (before[1] == after[1]).all()


# -- norms and heads --------------------------------------------------------------------------------


def test_trained_norms_are_extras(tmp_path: Path) -> None:
    result = _search(tmp_path / "n", train_norm=True)
    model = result.jackpot.base.model
    expected = dict.fromkeys(norm_statistics(model), "norm_statistics")
    expected |= dict.fromkeys(norm_affine(model), "norm_affine")
    assert roles(result) == expected
    before = load_base("digits_resnet").model.state_dict()
    affine = [name for name, role in expected.items() if role == "norm_affine"]
    assert len(affine) > 20
    assert all(not torch.equal(result.jackpot.extras[name].tensor, before[name]) for name in affine)
    assert_loads_as_searched(result)


def test_a_trained_head_is_an_extra_without_labels(tmp_path: Path) -> None:
    result = _search(tmp_path / "h", train_head=True)
    config = read_artifact(tmp_path / "h").config
    assert {name for name, role in roles(result).items() if role == "head"} == {"fc.weight", "fc.bias"}
    assert set(roles(result).values()) == {"head", "norm_statistics"}
    assert config.head is not None
    assert config.head.model_dump() == {"names": ["fc.weight", "fc.bias"], "num_classes": 10, "labels": None}
    before = load_base("digits_resnet").model.state_dict()
    assert all(not torch.equal(result.jackpot.extras[name].tensor, before[name]) for name in config.head.names)
    assert result.summary["dense_top1"] > 90  # the base has answers to compare with
    assert "adapted" not in config.info
    assert_loads_as_searched(result)


def test_a_head_whose_weights_are_masked_can_have_its_bias_trained(tmp_path: Path) -> None:
    result = _search(tmp_path / "h", train_head=True, mask_classifier=True)
    assert "fc.weight" in result.jackpot.masks
    assert {name for name, role in roles(result).items() if role == "head"} == {"fc.bias"}
    assert_loads_as_searched(result)


def test_frozen_norm_statistics_do_not_move(tmp_path: Path) -> None:
    result = _search(tmp_path / "f", freeze_norm_statistics=True, steps=4, lr=0.5)
    assert roles(result) == {}
    assert not (tmp_path / "f" / "extras.safetensors").exists()
    assert result.summary["overlap_start"] < 1
    assert_loads_as_searched(result)


def test_frozen_statistics_go_with_trained_norms(tmp_path: Path) -> None:
    result = _search(tmp_path / "f", freeze_norm_statistics=True, train_norm=True)
    assert roles(result) == dict.fromkeys(norm_affine(result.jackpot.base.model), "norm_affine")
    assert_loads_as_searched(result)


def test_statistics_are_reestimated_at_the_end_or_moving_averages(plain: SearchResult, tmp_path: Path) -> None:
    """The default is the moving averages of the run."""
    many, two = (_search(tmp_path / f"r{n}", recalibrate_batches=n, **PLAIN) for n in (16, 2))
    assert many.jackpot.masks == two.jackpot.masks == plain.jackpot.masks
    names = norm_statistics(plain.jackpot.base.model)
    assert set(roles(many)) == set(roles(plain)) == set(names)
    for one, other in ((many, two), (two, plain)):
        assert all(not torch.equal(one.jackpot.extras[n].tensor, other.jackpot.extras[n].tensor) for n in names)
    assert_loads_as_searched(many)
    assert many.summary["jackpot_top1"] > plain.summary["jackpot_top1"]


def test_reestimated_statistics_are_those_of_the_masked_model(tmp_path: Path) -> None:
    """Of the first norm, from the images themselves: no augmentation, one batch for all of the training split."""
    plain = {"crop_padding": 0, "hflip": 0.0, "val_fraction": 0.0}
    _search(tmp_path / "r", steps=0, recalibrate_batches=10, batch_size=40, **plain)
    images = (digits_split("train")[0][:TRAIN].float() / 255 - 0.5) / 0.5
    model = from_pretrained(tmp_path / "r")
    with torch.no_grad():
        outputs = model.conv1[0](images)
    torch.testing.assert_close(model.conv1[1].running_mean, outputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    variance = torch.stack([part.var((0, 2, 3)) for part in outputs.split(40)]).mean(0)
    torch.testing.assert_close(model.conv1[1].running_var, variance, rtol=5e-2, atol=1e-5)


# -- random bases -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_random(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return _search(tmp_path_factory.mktemp("random") / "a", pretrained=False, model="digits_resnet", steps=3, lr=0.5)


def random_weights_of(result: SearchResult) -> Path:
    folder = Path(result.summary["artifact"])
    return folder.with_name(f"{folder.name}-base.safetensors")


def test_a_random_base_is_saved_beside_the_output(from_random: SearchResult) -> None:
    checkpoint = random_weights_of(from_random)
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["a", "a-base.safetensors"]
    saved = load_file(checkpoint)
    weights = maskable_weights(from_random.jackpot.base.model).weights
    assert all(torch.equal(saved[name], weight) for name, weight in weights.items())
    trained = load_base("digits_resnet").model.state_dict()
    assert not any(torch.equal(saved[name], trained[name]) for name in weights)
    assert from_random.summary["dense_top1"] < 30
    config = read_artifact(from_random.summary["artifact"]).config
    assert (config.base.source, config.base.architecture) == ("file", "digits_resnet")


def test_a_jackpot_in_random_weights_loads_with_them_and_not_without(from_random: SearchResult) -> None:
    with pytest.raises(ArtifactError, match="pass the same file with --base-checkpoint"):
        from_pretrained(from_random.summary["artifact"])
    assert_loads_as_searched(from_random, base_checkpoint=random_weights_of(from_random))


def test_the_recipe_names_no_path_of_the_random_base(from_random: SearchResult) -> None:
    folder = Path(from_random.summary["artifact"])
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["pretrained"] is False
    assert "base_checkpoint" not in recipe
    for file in ("recipe.yaml", "config.json", "README.md", "record.jsonl"):
        assert str(folder.parent) not in (folder / file).read_text()


def test_random_weights_follow_the_seed(from_random: SearchResult, tmp_path: Path) -> None:
    settings = {"pretrained": False, "model": "digits_resnet", "lr": 0.5}
    # Random weights have no logits worth imitating: the distillation that was asked for is left out.
    again = _search(tmp_path / "a", steps=3, distill_weight=0.9, **settings)
    assert random_weights_of(again).read_bytes() == random_weights_of(from_random).read_bytes()
    assert again.jackpot.masks == from_random.jackpot.masks
    other = _search(tmp_path / "b", steps=0, seed=1, **settings)
    assert random_weights_of(other).read_bytes() != random_weights_of(from_random).read_bytes()


def test_a_random_transformer_of_another_size_and_head_loads(tmp_path: Path) -> None:
    result = _search(
        tmp_path / "v", pretrained=False, model="test_vit", img_size=32, num_classes=10, dataset="digits", steps=2
    )
    assert roles(result) == {}
    assert read_artifact(tmp_path / "v").config.head is None
    assert_loads_as_searched(result, base_checkpoint=random_weights_of(result))


def test_a_random_base_and_a_checkpoint_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--no-pretrained and --base-checkpoint cannot be used together"):
        _search(tmp_path / "x", pretrained=False, model="digits_resnet", base_checkpoint="x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_random_base_that_timm_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="did you mean digits_resnet"):
        _search(tmp_path / "x", pretrained=False, model="digit_resnet")
    assert list(tmp_path.iterdir()) == []


def test_the_line_that_loads_names_the_random_weights(
    from_random: SearchResult,
) -> None:
    table = comparison_table(from_random, SearchConfig(pretrained=False, model="digits_resnet"))
    assert repr(str(random_weights_of(from_random))) in table.splitlines()[-1]


def test_bad_data_leave_no_random_weights(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        _search(tmp_path / "x", pretrained=False, model="digits_resnet", data_dir="nowhere")
    assert list(tmp_path.iterdir()) == []


def test_somebodys_file_beside_the_output_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x-base.safetensors").write_text("precious")
    with contextlib.suppress(BaseError, ConfigError, ArtifactError):
        _search(tmp_path / "x", pretrained=False, model="digits_resnet", steps=0)
    assert (tmp_path / "x-base.safetensors").read_text() == "precious"


def test_random_weights_and_a_base_of_ones_own_exclude_each_other(tmp_path: Path) -> None:
    base = base_from_module(load_base("digits_resnet").model, "mine", num_classes=10, input_size=(3, 32, 32))
    config = SearchConfig(pretrained=False, dataset="digits", steps=0, batch_size=32, output=str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="ask for random weights"):
        search_jackpot(config, base)


# -- a transformer, whose norms have no statistics --------------------------------------------------


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a test_vit for ten classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=32, num_classes=10).state_dict(), path)
    return path


def vit_search(folder: Path, checkpoint: Path, **settings: object) -> SearchResult:
    flags = {"model": "test_vit", "base_checkpoint": str(checkpoint), "img_size": 32, "dataset": "digits"}
    return _search(folder, **flags, **settings)


def test_a_model_without_running_statistics_has_no_extras(vit: Path, tmp_path: Path) -> None:
    result = vit_search(tmp_path / "v", vit, steps=3)
    assert roles(result) == {}
    assert not (tmp_path / "v" / "extras.safetensors").exists()
    config = read_artifact(tmp_path / "v").config
    assert config.head is None
    assert set(config.files) == {"masks.safetensors"}
    assert result.summary["dense_top1"] is not None
    assert_loads_as_searched(result, base_checkpoint=vit)


def test_a_new_head_is_all_that_a_transformer_adds(vit: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "seven.safetensors"
    save_file(timm.create_model("test_vit", img_size=32, num_classes=7).state_dict(), checkpoint)
    result = vit_search(tmp_path / "v", checkpoint, num_classes=10, steps=3)
    head = list(classifier_parameters(result.jackpot.base.model))
    assert roles(result) == dict.fromkeys(head, "head")
    config = read_artifact(tmp_path / "v").config
    assert config.head is not None
    assert config.head.model_dump() == {"names": head, "num_classes": 10, "labels": list("0123456789")}
    assert set(head) <= set(config.info["adapted"])
    assert result.summary["magnitude_top1"] is None
    assert result.summary["dense_top1"] > 0  # with a trained head
    loaded = assert_loads_as_searched(result, base_checkpoint=checkpoint)
    assert tuple(loaded.get_classifier().weight.shape) == (10, 64)


def test_trained_layer_norms_and_head_of_a_patterned_transformer(vit: Path, tmp_path: Path) -> None:
    result = vit_search(tmp_path / "v", vit, allocation="2:4", train_norm=True, train_head=True, steps=3)
    model = result.jackpot.base.model
    affine, head = norm_affine(model), classifier_parameters(model)
    assert sum(isinstance(module, nn.LayerNorm) for module in model.modules()) == len(affine) // 2 > 0
    assert roles(result) == {**dict.fromkeys(affine, "norm_affine"), **dict.fromkeys(head, "head")}
    saved = load_file(vit)
    assert all(not torch.equal(result.jackpot.extras[name].tensor, saved[name]) for name in (*affine, *head))
    assert all(is_n_of_m(mask, 2, 4) for mask in result.jackpot.masks.values())
    assert {w.reason for w in result.jackpot.maskable.dense} >= {"its 3 input channels are not a multiple of 4"}
    assert_loads_as_searched(result, base_checkpoint=vit)


def test_a_criterion_of_second_order_takes_attention(vit: Path, tmp_path: Path) -> None:
    result = vit_search(tmp_path / "v", vit, criterion="grasp", steps=0)
    masks = result.jackpot.masks
    assert masks.kept == kept_count(masks.total, "0.9")
    assert result.summary["overlap_start"] == 1
    assert read_artifact(tmp_path / "v").config.info["config"]["criterion"] == "grasp"


@pytest.mark.parametrize(
    ("given", "kept"), [(0.9, "0.9"), (1e-05, "0.00001"), (0, "0"), ("0.90", "0.90"), (".5", "0.5")]
)
def test_a_sparsity_is_a_float_or_a_text_and_kept_in_plain_figures(given: float | str, kept: str) -> None:
    assert SearchConfig(sparsity=given).sparsity == kept  # pyright: ignore[reportArgumentType]


@pytest.fixture
def seven_classes(tmp_path: Path) -> Path:
    """A checkpoint whose head does not fit the digits."""
    torch.manual_seed(0)
    path = tmp_path / "seven.safetensors"
    save_file(timm.create_model("test_vit", img_size=32, num_classes=7).state_dict(), path)
    return path


def test_a_new_head_has_a_learning_rate_of_its_own(seven_classes: Path, tmp_path: Path) -> None:
    still = vit_search(tmp_path / "still", seven_classes, num_classes=10, head_lr=1e-12)
    fast = vit_search(tmp_path / "fast", seven_classes, num_classes=10, head_lr=0.5)
    untrained = vit_search(tmp_path / "none", seven_classes, num_classes=10, steps=0)
    for name, extra in untrained.jackpot.extras.items():
        torch.testing.assert_close(still.jackpot.extras[name].tensor, extra.tensor)
        assert not torch.allclose(fast.jackpot.extras[name].tensor, extra.tensor)


def test_the_head_can_be_trained_before_the_scores(seven_classes: Path, tmp_path: Path) -> None:
    """Of so many steps none is left for the scores: the mask is that of the start, the head is trained."""
    warm = vit_search(tmp_path / "warm", seven_classes, num_classes=10, steps=5, head_steps=5)
    untrained = vit_search(tmp_path / "none", seven_classes, num_classes=10, steps=0)
    assert warm.jackpot.masks == untrained.jackpot.masks
    assert all(
        not torch.equal(extra.tensor, untrained.jackpot.extras[n].tensor) for n, extra in warm.jackpot.extras.items()
    )
    assert warm.summary["steps"] == 5
    with pytest.raises(ConfigError, match="--head-steps 6 are more than the run's 5 steps"):
        vit_search(tmp_path / "x", seven_classes, num_classes=10, steps=5, head_steps=6)
