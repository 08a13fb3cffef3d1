"""Compact masks: the ranks, the stream, and the artifact that holds them."""

from __future__ import annotations

import json
import lzma
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from math import prod
from pathlib import Path
from typing import Any

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
    from_pretrained,
    open_artifact,
    read_artifact,
    recode,
    report_table,
    save,
    save_pretrained,
)
from timm_jackpot.artifact.compact import compact_on
from timm_jackpot.artifact.jackpot import Jackpot
from timm_jackpot.base import load_base
from timm_jackpot.errors import ArtifactError, BaseMismatchError, ConfigError
from timm_jackpot.hub import render_card
from timm_jackpot.masks import MaskSet, decode_compact, encode_compact, keep_largest, most_compact_bytes, pack
from timm_jackpot.masks.compact import rank_order
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.training.finetune import FinetuneConfig, finetune_jackpot

pytestmark = pytest.mark.usefixtures("few_digits")

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


# --- ranks and stream -----------------------------------------------------------------------------------------


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
    assert len(coded) <= most_compact_bytes(mask.numel() for mask in masks.values())
    assert decode_compact(coded, sizes_of(masks)).on(weights) == masks


def test_what_does_not_compress_is_stored() -> None:
    weights = {f"w{i}": torch.randn(3_000_007 + i, generator=torch.Generator().manual_seed(i)) for i in range(2)}
    random = torch.Generator().manual_seed(7)
    masks = MaskSet({name: torch.rand(w.shape, generator=random) < 0.5 for name, w in weights.items()})
    coded = encode_compact(masks, weights)
    packed = sum((mask.numel() + 7) // 8 for mask in masks.values())
    assert packed < len(coded) <= most_compact_bytes(mask.numel() for mask in masks.values()) < 1.002 * packed
    assert decode_compact(coded, sizes_of(masks)).on(weights) == masks


@pytest.fixture(scope="module")
def coded() -> tuple[dict[str, Tensor], MaskSet, Tensor]:
    random = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=random) for name, shape in (("a", (32, 90)), ("b", (64, 200)))}
    masks = noisy_masks(weights, {"a": 300, "b": 900})
    return weights, masks, encode_compact(masks, weights)


def as_stream(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def compressed(*pieces: bytes) -> bytes:
    """A sound stream of any bytes; written without our own writer."""
    coder = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    return b"".join(map(coder.compress, pieces)) + coder.flush()


def ranked_bytes(weights: dict[str, Tensor], masks: MaskSet) -> bytes:
    ranked = (pack(masks[name].reshape(-1)[torch.from_numpy(rank_order(w))]) for name, w in weights.items())
    return b"".join(packed.numpy().tobytes() for packed in ranked)


def test_the_stream_is_the_packed_ranks_of_all_layers(coded: Any) -> None:
    weights, masks, stream = coded
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    data = lzma.decompress(stream.numpy().tobytes(), lzma.FORMAT_RAW, filters=filters)
    assert data == ranked_bytes(weights, masks)
    assert decode_compact(as_stream(compressed(data)), sizes_of(masks)).on(weights) == masks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "ends too early"),
        (lambda data: data[:1], "ends too early"),
        (lambda data: data[:-1], "ends too early"),
        (lambda data: data[: len(data) // 2], "ends too early"),
        (lambda data: data + b"\0", "bytes after the end"),
        (lambda data: data + data, "bytes after the end|more than the"),
        (lambda data: data + bytes(10**5), "more than the .* that these masks can need"),
        (lambda data: b"\xff" + data[1:], "do not decompress|ends too early"),
        (lambda data: b"\3" + data[1:], "do not decompress"),
        (lambda data: b"\0", "decompress to 0 bytes"),
        (lambda data: lzma.compress(data)[:2000], "do not decompress"),
    ],
)
def test_a_damaged_stream_is_refused(coded: Any, change: Callable[[bytes], bytes], message: str) -> None:
    _, masks, stream = coded
    with pytest.raises(ValueError, match=message):
        decode_compact(as_stream(change(stream.numpy().tobytes())), sizes_of(masks))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "decompress to .* bytes, not to the"),
        (lambda data: data + b"\0", "decompress to more than the"),
        (lambda data: b"\xff" + data[1:-1] + b"\x7f", "does not keep"),
        (lambda data: bytes(len(data)), "a does not keep 300 weights"),
    ],
)
def test_a_sound_stream_of_other_bytes_is_refused(coded: Any, change: Callable[[bytes], bytes], message: str) -> None:
    weights, masks, _ = coded
    with pytest.raises(ValueError, match=message):
        decode_compact(as_stream(compressed(change(ranked_bytes(weights, masks)))), sizes_of(masks))


def test_spare_bits_that_are_set_are_refused() -> None:
    for data, sound in ((b"\x0f\x01", True), (b"\x0f\x80", False)):
        stream = as_stream(compressed(data))
        if sound:
            decode_compact(stream, {"a": (9, 5)})
        else:
            with pytest.raises(ValueError, match="spare bits after the last mask element of a are set"):
                decode_compact(stream, {"a": (9, 5)})


def test_other_counts_are_refused(coded: Any) -> None:
    stream = coded[2]
    with pytest.raises(ValueError, match="a does not keep 301 weights"):
        decode_compact(stream, {"a": (2880, 301), "b": (12800, 899)})
    with pytest.raises(ValueError, match="not to the"):
        decode_compact(stream, {"a": (2**33, 300)})


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Half a gigabyte of zeros in 75 kB."""
    coded = compressed(*[bytes(1 << 24)] * 32)
    assert len(coded) < 100_000
    return coded


@pytest.mark.parametrize("sizes", [{"a": (2880, 300), "b": (12800, 900)}, {"a": (2**23, 0)}])
def test_a_bomb_stops_at_the_bound(bomb: bytes, sizes: dict[str, tuple[int, int]]) -> None:
    """All of the bomb, or what of it the limit on the coded bytes lets through."""
    data = as_stream(bomb[: most_compact_bytes(n for n, _ in sizes.values())])
    packed = sum(n // 8 for n, _ in sizes.values())
    tracemalloc.start()
    try:
        began = time.process_time()
        with pytest.raises(ValueError, match="decompress to more than the"):
            decode_compact(data, sizes)
        assert time.process_time() - began < 1.0
        assert tracemalloc.get_traced_memory()[1] < 4 * packed + 8 * 2**20
    finally:
        tracemalloc.stop()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["flip", "cut", "insert", "delete", "made up", "swap"]))
@settings(max_examples=300)
def test_any_other_stream_is_refused_or_keeps_as_many(coded: Any, seed: int, kind: str) -> None:
    """Nothing but a ValueError, or masks of the same counts, which the mask hash tells from the right ones."""
    weights, masks, stream = coded
    random, data = np.random.default_rng(seed), bytearray(stream.numpy().tobytes())
    at = int(random.integers(len(data)))
    if kind == "flip":
        data[at] ^= 1 << int(random.integers(8))
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = random.bytes(3)
    elif kind == "delete":
        del data[at : at + 2]
    elif kind == "made up":  # behind a sound head of the chunk
        data[6:-1] = random.bytes(len(data) - 7)
    else:
        other = {
            name: mask.reshape(-1)[random.permutation(mask.numel())].reshape(mask.shape) for name, mask in masks.items()
        }
        data[:] = encode_compact(other, weights).numpy().tobytes()
    try:
        found = decode_compact(as_stream(bytes(data)), sizes_of(masks)).on(weights)
    except ValueError:
        assert kind != "swap"
        return
    assert sizes_of(found) == sizes_of(masks)
    assert kind not in ("cut", "delete")


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


def as_format_1(folder: Path) -> None:
    """What a version before this one wrote, as far as config.json and the metadata go."""
    tensors = load_file(folder / "masks.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    repeated = {"format": 1, "digest": config["base"]["digest"]}
    repeated |= {key: config[key] for key in ("mask_hash", "encoding")}
    save_file(tensors, folder / "masks.safetensors", {"timm_jackpot": json.dumps(repeated)})
    edit(folder, lambda config: config.update(format=1))
    reseal(folder, "masks.safetensors")


def test_format_1_is_read_where_it_is_packed_and_recoded_as_format_2(jackpot: Jackpot, tmp_path: Path) -> None:
    old, new = (
        save_pretrained(jackpot, tmp_path / "old"),
        save_pretrained(jackpot, tmp_path / "new", encoding="compact"),
    )
    as_format_1(old)
    artifact, base = open_artifact(old)
    assert artifact.masks_on(base) == jackpot.masks
    for name, content in recode(artifact, base, "compact").items():
        assert content == (new / name).read_bytes(), name
    as_format_1(new)
    with pytest.raises(ArtifactError, match=r"compact masks of format 1 are no longer supported: .* store them packed"):
        read_artifact(new)


def test_without_the_base_there_are_counts_and_sizes_but_no_masks(jackpot: Jackpot, packed: Path, folder: Path) -> None:
    artifact = read_artifact(folder)
    with pytest.raises(ArtifactError, match="compact: they can be decoded only with the weights of their base"):
        _ = artifact.masks
    alone, packed_alone = artifact_report(artifact), artifact_report(read_artifact(packed))
    assert alone["layers"] == packed_alone["layers"]
    assert (alone["mask_hash_checked"], packed_alone["mask_hash_checked"]) == (False, True)
    assert "can only be checked with the base" in report_table(alone)
    beside = [artifact_report(*open_artifact(at)) for at in (folder, packed)]
    assert all(report["mask_hash_checked"] for report in beside)
    for at, report in zip((folder, packed), beside, strict=True):
        size = (at / "masks.safetensors").stat().st_size
        assert report["bytes"]["masks.safetensors"] == size
        assert f"{8 * size / jackpot.masks.total:.3f} bits per maskable weight" in report_table(report)
    assert f"packed, they would take {alone['packed_bytes']} bytes" in report_table(alone)
    assert "packed, they would" not in report_table(packed_alone)
    assert "can only be checked" not in report_table(beside[0])


def card_size(size: int) -> str:
    return f"{size / 1000:.1f} kB" if size >= 1000 else f"{size} Bytes"


def test_a_card_shows_the_sizes_of_the_files(jackpot: Jackpot, packed: Path, folder: Path) -> None:
    for at in (packed, folder):
        table = render_card(read_artifact(at)).split("## Size\n")[1].split("\n## ")[0]
        masks = (at / "masks.safetensors").stat().st_size
        assert f"(`masks.safetensors`) | {card_size(masks)} |" in table
        statistics = sum(extra.tensor.nbytes for extra in jackpot.extras.values())
        assert f"| norm statistics, float32 (in `extras.safetensors`) | {card_size(statistics)} |" in table
        everything = masks + sum((at / name).stat().st_size for name in ("config.json", "extras.safetensors"))
        assert f"| all files that loading needs, names and shapes included | {card_size(everything)} |" in table
        assert f"| dense parameters, float32 | {4 * jackpot.kept_of_all[1] / 1e6:.1f} MB |" in table
        assert ("the same masks, packed" in table) == (at == folder)
        assert "bound" not in table
    edit(packed, lambda config: config["info"].update(results={"compact_mask_bytes": 4321}))  # as format 1 had it
    assert "4321" not in render_card(read_artifact(packed))
    edit(packed, lambda config: config["info"].pop("results"))


def test_another_base_is_refused_by_the_layer(folder: Path) -> None:
    artifact, base = open_artifact(folder)
    other = {**base.tensors, "layer2.0.conv1.weight": base.tensors["layer1.0.conv1.weight"]}
    with pytest.raises(BaseMismatchError, match=r"layer2\.0\.conv1\.weight differs here"):
        artifact.masks_on(replace(base, tensors=other))
    with torch.no_grad():  # hashes of before, weights of after: the mask hash sees it
        base.model.get_parameter("layer2.0.conv1.weight").neg_().add_(0.01)
    with pytest.raises(ArtifactError, match="does not match the mask hash"):
        artifact.masks_on(base)


def test_a_base_that_was_merged_is_not_coded_on(jackpot: Jackpot, tmp_path: Path) -> None:
    base = load_base("digits_resnet")
    from_pretrained(save_pretrained(jackpot, tmp_path / "p"), base=base.model)
    with pytest.raises(BaseMismatchError, match=r"conv1\.0\.weight has changed since loading: .* save packed"):
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
        config["sparsity"]["requested"] = f"{Decimal(total - kept) / total:.25f}"

    edit(folder, many)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="not to the 536910176 of these masks"):
            read_artifact(folder, check=lambda _: None)  # which would see it by the architecture
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_search_can_save_compact(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "batch_size": 32, "output": str(tmp_path / "j"), "encoding": "compact"}
    result = search_jackpot(SearchConfig(**settings))
    artifact, base = open_artifact(tmp_path / "j")
    assert artifact.config.encoding == "compact"
    assert artifact.masks_on(base) == result.jackpot.masks
    card = (tmp_path / "j" / "README.md").read_text("utf-8")
    assert f"(`masks.safetensors`) | {card_size(result.summary['mask_bytes'])} |" in card
    assert "--encoding compact" in card  # of the command
    tuned = finetune_jackpot(FinetuneConfig(artifact=str(tmp_path / "j"), output=str(tmp_path / "tuned"), steps=2))
    assert tuned["jackpot_top1"] == result.summary["jackpot_top1"]
    assert tuned["sparsity"] == pytest.approx(result.summary["sparsity"])


def test_masks_are_not_coded_to_report_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("coded")

    monkeypatch.setattr(save, "compact_on", refuse)
    settings: dict[str, Any] = {"steps": 2, "batch_size": 32, "output": str(tmp_path / "j")}
    result = search_jackpot(SearchConfig(**settings))
    assert "compact_mask_bytes" not in result.summary
    assert artifact_report(*open_artifact(tmp_path / "j"))["encoding"] == "packed"
    with pytest.raises(AssertionError, match="coded"):
        recode(*open_artifact(tmp_path / "j"), "compact")


def test_inspect_verifies_on_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(*words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["inspect", "--artifact", str(folder), *words])
        return inspect.main()

    assert report()["mask_hash_checked"] is False
    assert report("--verify")["mask_hash_checked"] is True
    assert "bits per maskable weight" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--base-checkpoint needs --verify"):
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
