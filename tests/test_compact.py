"""Compact masks: the coder, the ranks, and the artifact that holds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import fuzz_compact
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file
from test_artifact import edit, make_jackpot, reseal
from torch import Tensor

from timm_jackpot import inspect
from timm_jackpot.artifact import (
    artifact_report,
    compact_on,
    from_pretrained,
    open_artifact,
    read_artifact,
    recode,
    report_table,
    save_pretrained,
)
from timm_jackpot.artifact.jackpot import Jackpot
from timm_jackpot.base import load_base
from timm_jackpot.errors import ArtifactError, BaseMismatchError, ConfigError
from timm_jackpot.hub import render_card
from timm_jackpot.masks import MaskSet, compact_limits, decode_compact, encode_compact, keep_largest, rans
from timm_jackpot.masks.compact import rank_order
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.training.finetune import FinetuneConfig, finetune_jackpot

SHAPES = hnp.array_shapes(max_dims=4, max_side=12)
WEIGHTS = SHAPES.flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0]))
)


def sizes_of(masks: MaskSet) -> dict[str, tuple[int, int]]:
    return {name: (mask.numel(), int(mask.sum())) for name, mask in masks.items()}


def noisy_masks(weights: dict[str, Tensor], kept: dict[str, int], spread: float = 0.35) -> MaskSet:
    """About as far from the magnitude masks as a search goes."""
    noise = torch.Generator().manual_seed(0)
    return MaskSet(
        {
            name: keep_largest(w.detach().abs() * torch.randn(w.shape, generator=noise).mul(spread).exp(), kept[name])
            for name, w in weights.items()
        }
    )


# --- ranks and coder -----------------------------------------------------------------------------------------


@given(WEIGHTS)
def test_ranks_go_from_large_to_small_magnitudes_and_ties_by_index(values: np.ndarray) -> None:
    order = rank_order(torch.from_numpy(values)).tolist()
    flat = np.abs(values.reshape(-1))
    key = [np.inf if np.isnan(x) else x for x in flat]
    assert sorted(order) == list(range(values.size))
    if not np.isnan(flat).any():  # the order among NaNs and infinities is that of their bits
        assert order == sorted(range(values.size), key=lambda i: (-key[i], i))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_ranks_are_those_of_the_tensor_as_float32_in_logical_order(dtype: torch.dtype) -> None:
    weight = torch.randn(6, 5, 3, 3).to(dtype)
    order = rank_order(weight)
    assert np.array_equal(order, rank_order(weight.float()))
    assert np.array_equal(order, rank_order(weight.to(memory_format=torch.channels_last)))


@given(st.lists(WEIGHTS, min_size=1, max_size=4), st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]), st.integers(0, 9))
def test_any_masks_come_back(arrays: list[np.ndarray], density: float, seed: int) -> None:
    weights = {f"w{i}": torch.from_numpy(values) for i, values in enumerate(arrays)}
    random = torch.Generator().manual_seed(seed)
    masks = MaskSet({name: torch.rand(w.shape, generator=random) < density for name, w in weights.items()})
    coded = encode_compact(masks, weights)
    assert torch.equal(coded, encode_compact(masks, weights))
    least, most = compact_limits(masks.total)
    assert least <= len(coded) <= most
    assert decode_compact(coded, sizes_of(masks)).on(weights) == masks


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 4095)), min_size=1, max_size=12),
    st.sampled_from([1, 7, 64, 8192]),
    st.integers(0, 99),
)
def test_any_bits_come_back_in_any_number_of_lanes(runs: list[tuple[int, int]], steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    ends = np.cumsum([length for length, _ in runs]).astype(np.int64)
    coded_as = (ends, np.array([p for _, p in runs], np.uint32))
    bits = random.integers(0, 2, int(ends[-1]), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rans, "_STEPS", steps)
        patch.setattr(rans, "_WINDOW", 100)
        stream = rans.encode_bits(bits, coded_as)
        found = [*rans.decode_bits(stream, coded_as), np.empty(0, bool)]
        assert len(stream) >= rans.least_bytes(len(bits))
    assert np.array_equal(np.concatenate(found), bits == 1)


def test_the_lanes_cost_little_and_steps_are_bounded() -> None:
    for n in (0, 1, 8192, 8193, 270_000, 25_000_000, 2**33):
        lanes = rans.lane_count(n)
        assert lanes * 8192 >= n
        assert (lanes - 1) * 8192 < max(n, 1)


def test_a_coder_spends_what_information_theory_says() -> None:
    random = np.random.default_rng(0)
    bits = (random.random(200_000) < 0.05).astype(np.uint8)
    p = np.array([205], np.uint32)
    stream = rans.encode_bits(bits, (np.array([len(bits)]), p))
    ideal = -np.log2(np.where(bits, 205 / 4096, 1 - 205 / 4096)).sum() / 8
    assert ideal < len(stream) < 1.005 * ideal + 4 * rans.lane_count(len(bits))


@pytest.fixture(scope="module")
def coded() -> tuple[dict[str, Tensor], MaskSet, Tensor]:
    random = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=random) for name, shape in (("a", (32, 90)), ("b", (64, 200)))}
    masks = noisy_masks(weights, {"a": 300, "b": 900})
    return weights, masks, encode_compact(masks, weights)


def _with(place: int, value: int, width: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + value.to_bytes(width, "little") + data[place + width :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "cannot hold these masks"),
        (lambda data: data[:39], "cannot hold these masks"),
        (lambda data: data + bytes(10**5), "cannot hold these masks"),
        (lambda data: data[:-1], "expected an even number"),
        (_with(0, 0, 2), "a probability is not in 1 to 4095"),
        (_with(30, 4096, 2), "a probability is not in 1 to 4095"),
        (_with(32, 65535, 4), "a state that no coder leaves"),
        (lambda data: data[:40], "ends too early"),
        (lambda data: data[:-2], "ends too early"),
        (lambda data: data + b"\0\0", "does not end as it should"),
        (_with(32, 2**32 - 1, 4), "ends too early|does not keep"),
    ],
)
def test_a_damaged_stream_is_refused(coded: Any, change: Callable[[bytes], bytes], message: str) -> None:
    _, masks, stream = coded
    data = change(stream.numpy().tobytes())
    with pytest.raises(ValueError, match=message):
        decode_compact(torch.tensor(list(data), dtype=torch.uint8), sizes_of(masks))


def test_other_counts_are_refused(coded: Any) -> None:
    stream = coded[2]
    with pytest.raises(ValueError, match=r"does not keep|end|begin"):
        decode_compact(stream, {"a": (2880, 301), "b": (12800, 899)})
    with pytest.raises(ValueError, match="cannot hold these masks"):
        decode_compact(stream, {"a": (2**33, 300)})


changes = given(st.integers(0, 2**32 - 1))


@changes
@settings(max_examples=40)
def test_streams_of_all_kinds_neither_crash_nor_hang_nor_pass(seed: int) -> None:
    assert set(fuzz_compact.fuzz(20, seed)) - {"streams"} <= fuzz_compact.FINE


@pytest.mark.slow
def test_streams_of_all_kinds_at_length() -> None:
    found = fuzz_compact.fuzz(100_000, seed=7)
    assert set(found) - {"streams"} == fuzz_compact.FINE


def test_a_fuzz_run_sees_a_wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the hash of no use, other masks of the same counts would pass, and the run would say so."""
    monkeypatch.setattr(MaskSet, "hash", lambda self: "same")
    assert "passed as a wrong mask" in fuzz_compact.fuzz(300)


def test_a_searched_mask_takes_less_than_the_goal() -> None:
    """The layers of a ResNet-20, masks that differ from the magnitude masks in about 6 % of the weights."""
    widths = [(16, 3), *[(16, 16)] * 6, (32, 16), *[(32, 32)] * 5, (64, 32), *[(64, 64)] * 5]
    random = torch.Generator().manual_seed(1)
    weights = {f"w{i}": torch.randn(out, into, 3, 3, generator=random) for i, (out, into) in enumerate(widths)}
    kept = {name: w.numel() // 10 for name, w in weights.items()}
    masks, plain = noisy_masks(weights, kept, 0.28), {n: keep_largest(w.abs(), kept[n]) for n, w in weights.items()}
    flipped = sum(int((masks[n] ^ plain[n]).sum()) for n in weights) / masks.total
    assert 0.05 < flipped < 0.07
    assert 8 * (len(encode_compact(masks, weights)) + 400) / masks.total < 0.3
    assert 8 * len(encode_compact(plain, weights)) / masks.total < 0.01


# --- the artifact --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jackpot() -> Jackpot:
    found = make_jackpot(load_base("digits_resnet"))
    weights = {name: weight.detach() for name, weight in found.maskable.weights.items()}
    return replace(found, masks=noisy_masks(weights, found.masks.kept_per_layer()))


@pytest.fixture(scope="module")
def packed(jackpot: Jackpot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(jackpot, tmp_path_factory.mktemp("packed") / "j")


@pytest.fixture
def folder(jackpot: Jackpot, tmp_path: Path) -> Path:
    return save_pretrained(jackpot, tmp_path / "j", encoding="compact")


def test_a_compact_artifact_loads_as_the_packed_one_does(packed: Path, folder: Path) -> None:
    expected, found = from_pretrained(packed).state_dict(), from_pretrained(folder).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(load_file(folder / "masks.safetensors")) == ["compact"]
    assert (folder / "masks.safetensors").stat().st_size < 0.3 * (packed / "masks.safetensors").stat().st_size
    mine, other = (json.loads((at / "config.json").read_text()) for at in (folder, packed))
    assert mine.pop("encoding") != other.pop("encoding")
    assert mine.pop("files") != other.pop("files")
    assert mine == other


def test_an_encoding_that_there_is_not(jackpot: Jackpot, tmp_path: Path) -> None:
    encoding: Any = "zip"
    with pytest.raises(ConfigError, match="stored packed or compact, not 'zip'"):
        save_pretrained(jackpot, tmp_path / "j", encoding=encoding)
    assert not (tmp_path / "j").exists()


def test_either_encoding_can_be_turned_into_the_other(packed: Path, folder: Path) -> None:
    for source, target in ((packed, folder), (folder, packed)):
        artifact, base = open_artifact(source)
        for name, content in recode(artifact, base, read_artifact(target).config.encoding).items():
            assert content == (target / name).read_bytes(), name


def test_without_the_base_there_are_counts_and_sizes_but_no_masks(jackpot: Jackpot, packed: Path, folder: Path) -> None:
    artifact = read_artifact(folder)
    with pytest.raises(ArtifactError, match="compact: they can be read beside their base's weights only"):
        _ = artifact.masks
    alone, packed_alone = artifact_report(artifact), artifact_report(read_artifact(packed))
    assert alone["layers"] == packed_alone["layers"]
    assert (alone["mask_hash_checked"], packed_alone["mask_hash_checked"]) == (False, True)
    assert packed_alone["mask_bytes"]["compact"] is None
    assert "can only be checked beside the base" in report_table(alone)
    assert "compact: not known without the base" in report_table(packed_alone)
    beside = [artifact_report(*open_artifact(at)) for at in (folder, packed)]
    assert all(report["mask_hash_checked"] for report in beside)
    assert beside[0]["mask_bytes"] == beside[1]["mask_bytes"] == alone["mask_bytes"]
    coded = compact_on(jackpot.masks, jackpot.base)
    assert alone["mask_bytes"] == {
        "packed": sum((m.numel() + 7) // 8 for m in jackpot.masks.values()),
        "compact": len(coded),
    }
    assert "can only be checked" not in report_table(beside[0])


def test_cards_show_both_encodings(packed: Path, folder: Path) -> None:
    card = render_card(read_artifact(folder))
    assert f"(`masks.safetensors`) | {(folder / 'masks.safetensors').stat().st_size} |" in card
    assert "the same masks, packed one bit per weight | " in card
    assert "--encoding compact" not in render_card(read_artifact(packed))  # not known
    edit(packed, lambda config: config["info"].update(results={"compact_mask_bytes": 4321}))
    assert "(`--encoding compact`) | 4321 |" in render_card(read_artifact(packed))
    edit(packed, lambda config: config["info"].pop("results"))


def test_another_base_is_refused_by_the_layer(folder: Path) -> None:
    artifact, base = open_artifact(folder)
    other = {**base.tensors, "layer2.0.conv1.weight": base.tensors["layer1.0.conv1.weight"]}
    with pytest.raises(BaseMismatchError, match=r"layer2\.0\.conv1\.weight found here differs"):
        artifact.masks_on(replace(base, tensors=other))
    with torch.no_grad():  # hashes of before, weights of after: the mask hash sees it
        base.model.get_parameter("layer2.0.conv1.weight").neg_().add_(0.01)
    with pytest.raises(ArtifactError, match="does not match the mask hash"):
        artifact.masks_on(base)


def test_a_base_that_was_merged_is_not_coded_on(jackpot: Jackpot, tmp_path: Path) -> None:
    base = load_base("digits_resnet")
    from_pretrained(save_pretrained(jackpot, tmp_path / "p"), base=base.model)
    with pytest.raises(BaseMismatchError, match=r"conv1\.0\.weight is not as it was loaded: save packed"):
        save_pretrained(replace(jackpot, base=base), tmp_path / "j", encoding="compact")
    assert not (tmp_path / "j").exists()


def test_a_sound_stream_of_another_mask_is_refused_by_the_hash(jackpot: Jackpot, folder: Path) -> None:
    mirrored = MaskSet({name: mask.flip(0) for name, mask in jackpot.masks.items()})
    metadata = json.loads((folder / "masks.safetensors").read_bytes()[8:].split(b"}}", 1)[0] + b"}}")["__metadata__"]
    save_file({"compact": compact_on(mirrored, jackpot.base)}, folder / "masks.safetensors", metadata)
    reseal(folder, "masks.safetensors")
    read_artifact(folder)  # nothing to see yet: the stream is sound, and the counts are right
    with pytest.raises(ArtifactError, match="does not match the mask hash"):
        from_pretrained(folder)


def test_a_claim_of_many_weights_is_refused_before_anything_is_made_of_it(folder: Path) -> None:
    def many(config: dict[str, Any]) -> None:
        config["layers"][0]["shape"] = [2**31, 2]
        kept = config["sparsity"]["maskable"][0]
        total = sum(prod(layer["shape"]) for layer in config["layers"])
        config["sparsity"]["maskable"] = [kept, total]
        config["sparsity"]["all_parameters"] = [kept, total]

    edit(folder, many)
    with pytest.raises(ArtifactError, match="cannot have"):
        read_artifact(folder)


def test_a_search_can_save_compact(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "batch_size": 32, "output": str(tmp_path / "j"), "encoding": "compact"}
    result = search_jackpot(SearchConfig(**settings))
    artifact, base = open_artifact(tmp_path / "j")
    assert artifact.config.encoding == "compact"
    assert artifact.masks_on(base) == result.jackpot.masks
    assert artifact_report(artifact)["mask_bytes"]["compact"] == result.summary["compact_mask_bytes"]
    card = (tmp_path / "j" / "README.md").read_text("utf-8")
    assert f"(`masks.safetensors`) | {result.summary['mask_bytes']} |" in card
    assert "--encoding compact" in card  # of the command
    tuned = finetune_jackpot(FinetuneConfig(artifact=str(tmp_path / "j"), output=str(tmp_path / "tuned"), steps=2))
    assert tuned["jackpot_top1"] == result.summary["jackpot_top1"]
    assert tuned["sparsity"] == pytest.approx(result.summary["sparsity"])


def test_inspect_verifies_on_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(*words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["inspect", "--artifact", str(folder), *words])
        return inspect.main()

    assert report()["mask_hash_checked"] is False
    assert report("--verify")["mask_hash_checked"] is True
    assert "bit for each maskable weight" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--base-checkpoint goes with --verify"):
        report("--base-checkpoint", "x.safetensors")


def test_a_half_precision_checkpoint_is_a_base(jackpot: Jackpot, tmp_path: Path) -> None:
    state = load_base("digits_resnet").model.state_dict()
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    base = load_base("digits_resnet", base_checkpoint=tmp_path / "half.safetensors")
    masks = noisy_masks({n: base.model.get_parameter(n) for n in jackpot.masks}, jackpot.masks.kept_per_layer())
    folder = save_pretrained(replace(jackpot, base=base, masks=masks), tmp_path / "j", encoding="compact")
    artifact, again = open_artifact(folder, base_checkpoint=tmp_path / "half.safetensors")
    assert artifact.masks_on(again) == masks
    assert not from_pretrained(folder, base_checkpoint=tmp_path / "half.safetensors").training
