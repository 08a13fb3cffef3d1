"""A second reader of format 1, written from hubcards/FORMAT.md alone: numpy and json, nothing of this package."""

from __future__ import annotations

import hashlib
import json
from math import prod
from pathlib import Path

import numpy as np


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


def read_jackpot(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict]:
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


def test_the_page_is_enough_to_read_a_jackpot(tmp_path: Path) -> None:
    from test_artefact import make_jackpot

    from timm_jackpot.artefact import from_pretrained, save_pretrained
    from timm_jackpot.base import load_base

    base = load_base("digits_resnet")
    folder = save_pretrained(make_jackpot(base), tmp_path / "a")
    masks, extras, config = read_jackpot(folder)
    state = {name: tensor.numpy() for name, tensor in base.model.state_dict().items()}
    assert digest_of(state, config["info"].get("adapted", [])) == config["base"]["digest"]
    rebuilt = {name: value * masks[name] if name in masks else value for name, value in state.items()} | extras
    loaded = from_pretrained(folder).state_dict()
    for name, value in rebuilt.items():
        if not name.endswith("num_batches_tracked"):
            assert value.tobytes() == np.ascontiguousarray(loaded[name].numpy()).tobytes(), name
    assert list(masks) == [layer["name"] for layer in config["layers"]]
