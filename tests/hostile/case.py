"""A case of the corpus, and how to make one from a good artifact."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

CONFIG, MASKS, EXTRAS = "config.json", "masks.safetensors", "extras.safetensors"
BAIT = "jackpot_bait"  # a module on the path; whoever imports it has followed a name in an artifact
SECRET = "secret"  # a folder beside the artifacts that nothing may open
FIRST = "conv1.0.weight"  # the first layer of the bundled base
GIANT = 50 * 10**9
GOOD = ("digits", "compact", "head", "int8", "grey", "vit", "odd")  # the artifacts that all others are made from


@dataclass(frozen=True)
class Case:
    build: Callable[[Path], object]
    good: str = "digits"  # the good artifact that it starts from
    base: str | None = None  # another base to load it on: see `arguments`


CASES: dict[str, Case] = {}


def add(name: str, build: Callable[[Path], object], **more: str) -> None:
    assert name not in CASES, name
    CASES[name] = Case(build, **more)


# --- tools ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def edited(folder: Path) -> Iterator[dict[str, Any]]:
    """config.json as a dict, written back; nothing else is made to agree."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    yield config
    (folder / CONFIG).write_text(json.dumps(config), "utf-8")


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: Mapping[str, Any] | bytes, body: bytes, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def reseal(folder: Path, *names: str) -> None:
    """Make config.json agree with the bytes of changed files."""
    with edited(folder) as config:
        for name in names or (MASKS, EXTRAS):
            if (folder / name).is_file():
                data = (folder / name).read_bytes()
                config["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


class Forged:
    """An artifact in pieces; `forged` puts them together again so that every count and hash agrees."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / CONFIG).read_text("utf-8"))
        self.masks = self._pieces(folder / MASKS)
        self.extras = self._pieces(folder / EXTRAS)

    @staticmethod
    def _pieces(path: Path) -> dict[str, bytes]:
        if not path.exists():
            return {}
        header, body = split(path.read_bytes())
        header.pop("__metadata__", None)
        return {name: body[slice(*entry["data_offsets"])] for name, entry in header.items()}

    def layer(self, name: str) -> dict[str, Any]:
        return next(layer for layer in self.config["layers"] if layer["name"] == name)

    def seal(self, folder: Path) -> None:
        config, layers = self.config, self.config["layers"]
        for layer in layers:
            bits = np.unpackbits(np.frombuffer(self.masks[layer["name"]], np.uint8), bitorder="little")
            layer["kept"] = int(bits[: prod(layer["shape"])].sum())
        kept, total = sum(layer["kept"] for layer in layers), sum(prod(layer["shape"]) for layer in layers)
        everything = config["sparsity"]["all_parameters"][1]
        config["sparsity"].update(maskable=[kept, total], requested=requested_sparsity(kept, total))
        config["sparsity"]["all_parameters"] = [everything - (total - kept), everything]
        config["mask_hash"] = hashlib.sha256(b"".join(self.masks[layer["name"]] for layer in layers)).hexdigest()
        repeated = {"format": config["format"], "digest": config["base"]["digest"]}
        repeated |= {"mask_hash": config["mask_hash"], "encoding": config["encoding"]}
        masks = {name: ("U8", [len(data)], data) for name, data in self.masks.items()}
        specs = {e["name"]: (e.get("dtype", "F32"), e["shape"]) for e in config["extras"]}
        specs |= {f"{name}::scale": ("F32", shape[:1]) for name, (dtype, shape) in specs.items() if dtype == "I8"}
        extras = {name: (*specs[name], data) for name, data in self.extras.items() if name in specs}
        (folder / MASKS).write_bytes(tensors_file(masks, {"timm_jackpot": json.dumps(repeated)}))
        (folder / EXTRAS).write_bytes(tensors_file(extras, {}))
        if not extras:
            (folder / EXTRAS).unlink()
            config["files"].pop(EXTRAS, None)
        (folder / CONFIG).write_text(json.dumps(config), "utf-8")
        reseal(folder)


def requested_sparsity(kept: int, total: int) -> str:
    """A sparsity that keeps `kept` of `total`."""
    return f"{Decimal(total - kept) / max(total, 1):.25f}"


def claim_first_layer(config: dict[str, Any], shape: list[int]) -> None:
    """Give the first layer a shape, none of whose weights is kept; all counts are made to agree."""
    config["layers"][0].update(shape=shape, kept=0)
    kept = sum(layer["kept"] for layer in config["layers"])
    total = sum(prod(layer["shape"]) for layer in config["layers"])
    config["sparsity"].update(maskable=[kept, total], all_parameters=[kept + 2794, total + 2794])
    config["sparsity"]["requested"] = requested_sparsity(kept, total)


def tensors_file(tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        body += data
    return join(header, body)


@contextlib.contextmanager
def forged(folder: Path) -> Iterator[Forged]:
    pieces = Forged(folder)
    yield pieces
    pieces.seal(folder)


def on_config(name: str, change: Callable[[dict[str, Any]], object], **more: str) -> None:
    """A case that edits config.json alone."""

    def build(folder: Path) -> None:
        with edited(folder) as config:
            change(config)

    add(name, build, **more)


def forge(name: str, change: Callable[[Forged], object], **more: str) -> None:
    """A case that is sealed again in full: only the check that it is aimed at can see it."""

    def build(folder: Path) -> None:
        with forged(folder) as pieces:
            change(pieces)

    add(name, build, **more)


def on_text(name: str, change: Callable[[bytes], bytes]) -> None:
    """A case that edits the bytes of config.json."""

    def build(folder: Path) -> None:
        before = (folder / CONFIG).read_bytes()
        after = change(before)
        assert after != before, name
        (folder / CONFIG).write_bytes(after)

    add(name, build)


def on_bytes(name: str, file: str, change: Callable[[bytes], bytes]) -> None:
    """Two cases that edit the bytes of a tensor file: as it is, and with config.json made to agree."""

    def build(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    add(name, build)
    add(f"{name}, resealed", lambda folder: (build(folder), reseal(folder, file)))


def on_header(name: str, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """A case that edits the header of a tensor file, config.json made to agree."""

    def build(folder: Path) -> None:
        header, body = split((folder / file).read_bytes())
        changed = change(header)
        (folder / file).write_bytes(join(changed if isinstance(changed, (bytes, dict)) else header, body))
        reseal(folder, file)

    add(name, build)


def assign(config: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split("/")
    at: Any = config
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[int(last) if isinstance(at, list) else last] = value


def setting(path: str, value: object, **more: str) -> None:
    """A case that sets one value of config.json; `path` is slash-separated."""
    label = json.dumps(value)
    label = label if len(label) < 50 else f"{label[:40]}… ({len(label)})"
    good = f" ({more['good']})" if "good" in more else ""
    on_config(f"config {path} = {label}{good}", lambda config: assign(config, path, value), **more)
