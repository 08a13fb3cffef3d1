"""A second reader of format 1, written from hubcards/FORMAT.md alone: numpy and json, nothing of this package."""

from __future__ import annotations

import hashlib
import json
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
    kinds = {"U8": np.uint8, "F32": np.dtype("<f4")}
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        body = data[8 + size + start : 8 + size + end]
        tensors[name] = np.frombuffer(body, kinds[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


ODDS = [6, 10, 16, 25, 40, 64, 102, 161, 256, 406, 645, 1024, 1625, 2580, 4096]


def order_of(weight: np.ndarray) -> list[int]:
    keys = [b & 0x7FFFFFFF for b in np.ascontiguousarray(weight, "<f4").reshape(-1).view("<u4").tolist()]
    return sorted(range(len(keys)), key=lambda index: (-keys[index], index))


def bin_of(rank: int, n: int, kept: int) -> int:
    return sum(rank >= n * a * kept // (a * kept + 64 * (n - kept)) for a in ODDS)


def decode_compact(blob: bytes, layers: list[dict], state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bit by bit, in Python's own integers."""
    table = [int.from_bytes(blob[2 * j : 2 * j + 2], "little") for j in range(16)]
    total = sum(prod(layer["shape"]) for layer in layers)
    lanes = max(1, -(-total // 8192))
    if (
        any(not 1 <= p <= 4095 for p in table)
        or not 32 + 4 * lanes <= len(blob) <= 32 + 4 * lanes + (total + 7) // 8 * 2
    ):
        raise ValueError("table or size")
    states = [int.from_bytes(blob[32 + 4 * k : 36 + 4 * k], "little") for k in range(lanes)]
    at, i, masks = 32 + 4 * lanes, 0, {}
    for layer in layers:
        n, kept = prod(layer["shape"]), layer["kept"]
        array = state[layer["name"]]
        if hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() != layer["sha256"]:
            raise ValueError("another base")
        mask = np.zeros(n, bool)
        for rank, index in enumerate(order_of(array)):
            p, x = table[bin_of(rank, n, kept)], states[i % lanes]
            q, r = divmod(x, 4096)
            mask[index] = r < p
            x = p * q + r if r < p else x - p * q - p
            if x < 65536:
                if at + 2 > len(blob):
                    raise ValueError("out of words")
                x = 65536 * x + int.from_bytes(blob[at : at + 2], "little")
                at += 2
            states[i % lanes] = x
            i += 1
        if mask.sum() != kept:
            raise ValueError(layer["name"])
        masks[layer["name"]] = mask.reshape(layer["shape"])
    if at != len(blob) or any(x != 65536 for x in states):
        raise ValueError("end of stream")
    return masks


def encode_compact(layers: list[dict], masks: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> bytes:
    """The page's writer, with a table of its own."""
    table = [4000, 3900, 3800, 3600, 3300, 2700, 1500, 900, 500, 300, 200, 100, 60, 30, 20, 10]
    bits, places = [], []
    for layer in layers:
        n = prod(layer["shape"])
        bits += masks[layer["name"]].reshape(-1)[order_of(state[layer["name"]])].tolist()
        places += [table[bin_of(rank, n, layer["kept"])] for rank in range(n)]
    lanes = max(1, -(-len(bits) // 8192))
    states, words = [65536] * lanes, []
    for i in reversed(range(len(bits))):
        f, c = (places[i], 0) if bits[i] else (4096 - places[i], places[i])
        x = states[i % lanes]
        if x >= f << 20:
            words.append(x % 65536)
            x //= 65536
        states[i % lanes] = x // f * 4096 + x % f + c
    parts = [*((p, 2) for p in table), *((x, 4) for x in states), *((word, 2) for word in reversed(words))]
    return b"".join(value.to_bytes(width, "little") for value, width in parts)


def read_jackpot(
    folder: Path, state: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["format"] != 1:
        raise ValueError("upgrade")
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
    extras = read_safetensors(folder / "extras.safetensors")[0] if config["extras"] else {}
    return masks, extras, config


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


def test_the_page_is_enough_to_write_compact_masks(tmp_path: Path) -> None:
    import torch
    from test_artifact import make_jackpot

    from timm_jackpot.base import load_base
    from timm_jackpot.masks import decode_compact as ours

    base = load_base("digits_resnet")
    masks = _searched(make_jackpot(base)).masks
    state = {name: tensor.numpy() for name, tensor in base.model.state_dict().items()}
    layers = [{"name": n, "shape": list(m.shape), "kept": int(m.sum())} for n, m in masks.items()]
    blob = encode_compact(layers, {n: m.numpy() for n, m in masks.items()}, state)
    sizes = {layer["name"]: (prod(layer["shape"]), layer["kept"]) for layer in layers}
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
