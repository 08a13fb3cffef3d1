"""A second reader, written from hubcards/FORMAT.md alone: numpy, json and lzma, nothing of this package."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    kinds = {"U8": np.uint8, "I8": np.int8, "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F32": np.dtype("<f4")}
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        body = data[8 + size + start : 8 + size + end]
        tensors[name] = np.frombuffer(body, kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


LZMA2 = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20}]


def order_of(weight: np.ndarray) -> list[int]:
    keys = [b & 0x7FFFFFFF for b in np.ascontiguousarray(weight, "<f4").reshape(-1).view("<u4").tolist()]
    return sorted(range(len(keys)), key=lambda index: (-keys[index], index))


def decode_compact(blob: bytes, layers: list[dict], state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    total = sum((prod(layer["shape"]) + 7) // 8 for layer in layers)
    coder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA2)
    data = coder.decompress(blob, max_length=total + 1)
    if len(blob) > total + total // 1024 + 64 or len(data) != total or not coder.eof or coder.unused_data:
        raise ValueError("stream")
    masks, at = {}, 0
    for layer in layers:
        n, array = prod(layer["shape"]), state[layer["name"]]
        if hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() != layer["sha256"]:
            raise ValueError("another base")
        ranked = [data[at + i // 8] >> i % 8 & 1 for i in range(-(-n // 8) * 8)]
        if sum(ranked) != layer["kept"] or any(ranked[n:]):
            raise ValueError(layer["name"])
        mask = np.zeros(n, bool)
        mask[order_of(array)] = ranked[:n]
        masks[layer["name"]] = mask.reshape(layer["shape"])
        at += -(-n // 8)
    return masks


def encode_compact(masks: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> bytes:
    """The page's writer, with compression settings of its own."""
    ranked = [mask.reshape(-1)[order_of(state[name])] for name, mask in masks.items()]
    data = b"".join(np.packbits(bits, bitorder="little").tobytes() for bits in ranked)
    return lzma.compress(data, lzma.FORMAT_RAW, filters=LZMA2)


def read_jackpot(
    folder: Path, state: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["format"] != 2 and (config["format"], config["encoding"]) != (1, "packed"):
        raise ValueError("format")
    for name, entry in config["files"].items():
        content = (folder / name).read_bytes()
        if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ValueError(f"{name} is damaged")
    packed, metadata = read_safetensors(folder / "masks.safetensors")
    repeated = json.loads(metadata["timm_jackpot"])
    if repeated != {k: config.get(k, config["base"].get(k)) for k in ("format", "digest", "mask_hash", "encoding")}:
        raise ValueError("masks and config do not belong together")
    if config["encoding"] == "compact":
        found = decode_compact(packed["compact"].tobytes(), config["layers"], state)
        packed = {name: np.packbits(mask, bitorder="little") for name, mask in found.items()}
    masks, whole = {}, hashlib.sha256()
    for layer in config["layers"]:
        raw = packed[layer["name"]]
        whole.update(raw.tobytes())
        count = prod(layer["shape"])
        index = np.arange(count)
        bits = (raw[index // 8] >> (index % 8)) & 1
        if raw.shape != ((count + 7) // 8,) or int(bits.sum()) != layer["kept"]:
            raise ValueError(layer["name"])
        masks[layer["name"]] = bits.astype(bool).reshape(layer["shape"])
    if whole.hexdigest() != config["mask_hash"]:
        raise ValueError("mask hash")
    stored = read_safetensors(folder / "extras.safetensors")[0] if config["extras"] else {}
    return masks, {entry["name"]: decode_extra(entry, stored) for entry in config["extras"]}, config


def decode_extra(entry: dict[str, Any], stored: dict[str, np.ndarray]) -> np.ndarray:
    values, dtype = stored[entry["name"]], entry.get("dtype", "F32")
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "I8":
        return values.astype(np.float32) * stored[entry["name"] + "::scale"][:, None]
    return values.astype(np.float32)


def digest_of(state: dict[str, np.ndarray], adapted: list[str]) -> str:
    lines = []
    for name in sorted(state):
        if not name.endswith("num_batches_tracked") and name not in adapted:
            array = np.ascontiguousarray(state[name])
            shape = ",".join(map(str, array.shape))
            lines.append(f"{name}\0F32\0{shape}\0{hashlib.sha256(array.tobytes()).hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("encoding", ["packed", "compact"])
def test_the_page_is_enough_to_read_a_jackpot(tmp_path: Path, encoding: Any) -> None:
    from test_artifact import make_jackpot

    from timm_jackpot.artifact import from_pretrained, save_pretrained
    from timm_jackpot.base import load_base

    base = load_base("digits_resnet")
    folder = save_pretrained(_searched(make_jackpot(base)), tmp_path / "a", encoding=encoding)
    state = {name: tensor.numpy() for name, tensor in base.model.state_dict().items()}
    masks, extras, config = read_jackpot(folder, state)
    assert digest_of(state, config["info"].get("adapted", [])) == config["base"]["digest"]
    rebuilt = {name: value * masks[name] if name in masks else value for name, value in state.items()} | extras
    loaded = from_pretrained(folder).state_dict()
    for name, value in rebuilt.items():
        if not name.endswith("num_batches_tracked"):
            assert value.tobytes() == np.ascontiguousarray(loaded[name].numpy()).tobytes(), name
    assert list(masks) == [layer["name"] for layer in config["layers"]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_the_page_is_enough_to_read_extras_in_fewer_bits(tmp_path: Path, dtype: Any) -> None:
    from test_extras import with_head

    from timm_jackpot.artifact import from_pretrained, save_pretrained

    jackpot = with_head()
    folder = save_pretrained(jackpot, tmp_path / "a", extras_dtype=dtype)
    state = {name: tensor.numpy() for name, tensor in jackpot.base.model.state_dict().items()}
    _, extras, _ = read_jackpot(folder, state)
    loaded = from_pretrained(folder).state_dict()
    assert set(extras) == set(jackpot.extras)
    for name, value in extras.items():
        assert value.tobytes() == np.ascontiguousarray(loaded[name].numpy()).tobytes(), name


def test_the_page_is_enough_to_write_compact_masks(tmp_path: Path) -> None:
    import torch
    from test_artifact import make_jackpot

    from timm_jackpot.base import load_base
    from timm_jackpot.masks import decode_compact as ours

    base = load_base("digits_resnet")
    masks = _searched(make_jackpot(base)).masks
    state = {name: tensor.numpy() for name, tensor in base.model.state_dict().items()}
    blob = encode_compact({n: m.numpy() for n, m in masks.items()}, state)
    sizes = {n: (m.numel(), int(m.sum())) for n, m in masks.items()}
    assert ours(torch.frombuffer(bytearray(blob), dtype=torch.uint8), sizes).on(base.model.state_dict()) == masks


def _searched(jackpot: Any) -> Any:
    """The jackpot with other masks of the same counts, about as far from the magnitude masks as a search goes."""
    import torch

    from timm_jackpot.masks import MaskSet, keep_largest

    noise = torch.Generator().manual_seed(0)
    masks = {
        name: keep_largest(
            jackpot.maskable.weights[name].abs() * torch.randn(mask.shape, generator=noise).mul(0.35).exp(),
            int(mask.sum()),
        )
        for name, mask in jackpot.masks.items()
    }
    return replace(jackpot, masks=MaskSet(masks))
