"""Compact masks."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hostile.case import (
    FIRST,
    MASKS,
    add,
    claim_first_layer,
    edited,
    join,
    on_config,
    requested_sparsity,
    reseal,
    setting,
    split,
    tensors_file,
)
from hostile.tensors import EMPTY_TENSOR, repeat_value


def _blob(name: str, change: Callable[[bytes], bytes]) -> None:
    """A case that edits the stream of compact masks, header and config.json made to agree."""

    def build(folder: Path) -> None:
        header, body = split((folder / MASKS).read_bytes())
        after = change(body)
        assert after != body, name
        tensors = {"compact": ("U8", [len(after)], after)}
        (folder / MASKS).write_bytes(tensors_file(tensors, header["__metadata__"]))
        reseal(folder, MASKS)

    add(f"compact masks {name}", build, good="compact")


def _compressed(data: Iterable[bytes]) -> bytes:
    coder = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    return b"".join(map(coder.compress, data)) + coder.flush()


def _ranks(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A sound stream of other bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    return lambda body: _compressed([change(lzma.decompress(body, lzma.FORMAT_RAW, filters=filters))])


_BLOBS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "of one byte": lambda body: body[:1],
    "of an end alone": lambda body: b"\0",
    "without the end": lambda body: body[:-1],
    "without the first byte": lambda body: body[1:],
    "of the first half": lambda body: body[: len(body) // 2],
    "with a byte more": lambda body: body + b"\0",
    "with a thousand bytes more": lambda body: body + b"\xff" * 1000,
    "twice": lambda body: body + body,
    "twice before one end": lambda body: body[:-1] + body,
    "and a megabyte of nothing": lambda body: body + bytes(2**20),
    "of random bytes": lambda body: np.random.default_rng(0).bytes(len(body)),
    "of zeros": lambda body: bytes(len(body)),
    "of ones": lambda body: b"\xff" * len(body),
    "with random data in the chunk": lambda body: body[:6] + np.random.default_rng(0).bytes(len(body) - 7) + b"\0",
    "with a chunk that claims two megabytes": lambda body: b"\xff\xff\xff" + body[3:],
    "with a chunk that resets nothing": lambda body: b"\x80" + body[1:],
    "with a reserved control byte": lambda body: b"\x03" + body[1:],
    "with impossible properties": lambda body: body[:5] + b"\xff" + body[6:],
    "in a .xz container": lambda body: lzma.compress(body),
    "stored, not ended": lambda body: b"\x01\xff\xff" + bytes(2**15),
    "that decompress to a gigabyte": lambda body: _compressed(bytes(2**24) for _ in range(64))[:40_000],
    "of a byte less": _ranks(lambda data: data[:-1]),
    "of a byte more": _ranks(lambda data: data + b"\0"),
    "of no bytes": _ranks(lambda data: b""),
    "that keep nothing": _ranks(lambda data: bytes(len(data))),
    "that keep everything": _ranks(lambda data: b"\xff" * len(data)),
    "in reverse": _ranks(lambda data: data[::-1]),
    "with one weight more": _ranks(lambda data: bytes([data[0] ^ 128]) + data[1:]),
    "with bits exchanged inside a layer": _ranks(lambda data: data[53::-1] + data[54:]),
}
for _name, _change in _BLOBS.items():
    _blob(_name, _change)


def _compact_header(name: str, change: Callable[[dict[str, Any]], object]) -> None:
    def build(folder: Path) -> None:
        header, body = split((folder / MASKS).read_bytes())
        change(header)
        (folder / MASKS).write_bytes(join(header, body))
        reseal(folder, MASKS)

    add(f"compact masks {name}", build, good="compact")


_compact_header("under another name", lambda header: header.update(ranks=header.pop("compact")))
_compact_header("under a layer's name", lambda header: header.update({FIRST: header.pop("compact")}))
_compact_header("beside an empty tensor", lambda header: header.update(x=EMPTY_TENSOR))
_compact_header("beside a packed layer", lambda header: header.update({FIRST: header["compact"]}))
_compact_header("of another dtype", lambda header: header["compact"].update(dtype="I8"))
_compact_header("of two dimensions", lambda header: header["compact"]["shape"].insert(0, 1))
_compact_header("of a shorter shape", lambda header: header["compact"]["shape"].__setitem__(0, 32))
_compact_header("of 10^18 bytes", lambda header: header["compact"].update(shape=[10**18], data_offsets=[0, 10**18]))
_compact_header("with a negative offset", lambda header: header["compact"].update(data_offsets=[-1, 8]))
_compact_header("that say packed", lambda header: repeat_value(header, "encoding", "packed"))


def _giant_compact(shape: list[int], size: int, source: str = "timm") -> Callable[[Path], None]:
    """Masks for a layer of a size that only config.json claims, in a sparse file of `size` bytes more."""

    def build(folder: Path) -> None:
        header, body = split((folder / MASKS).read_bytes())
        header["compact"].update(shape=[len(body) + size], data_offsets=[0, len(body) + size])
        (folder / MASKS).write_bytes(join(header, body))
        os.truncate(folder / MASKS, (folder / MASKS).stat().st_size + size)
        with edited(folder) as config:
            claim_first_layer(config, shape)
            config["files"][MASKS]["bytes"] = (folder / MASKS).stat().st_size
            config["base"]["source"] = source
        if size < 10**9:
            reseal(folder, MASKS)

    return build


for _shape in ([2**29], [2**31, 2], [2**31, 256]):
    for _size in (0, 2**24, 10**10):
        add(f"compact masks for shape {_shape} and {_size} bytes", _giant_compact(_shape, _size), good="compact")
    add(f"compact masks for shape {_shape} of a module", _giant_compact(_shape, 2**24, "module"), good="compact")
    _foreign = {"hub_id": "timm/nowhere", "revision": None}

    def _of_a_repo(folder: Path, shape: list[int] = _shape, foreign: dict[str, Any] = _foreign) -> None:
        _giant_compact(shape, 2**24)(folder)
        with edited(folder) as config:
            config["base"].update(foreign)

    add(f"compact masks for shape {_shape} of a repo of its own", _of_a_repo, good="compact")
for _kept in (0, 100, 432):
    _name = f"compact masks, {_kept} kept of the first layer"

    def _count(config: dict[str, Any], kept: int = _kept) -> None:
        config["layers"][0]["kept"] = kept
        total_kept = sum(layer["kept"] for layer in config["layers"])
        total, everything = config["sparsity"]["maskable"][1], config["sparsity"]["all_parameters"][1]
        config["sparsity"].update(
            maskable=[total_kept, total],
            all_parameters=[everything - (total - total_kept), everything],
            requested=requested_sparsity(total_kept, total),
        )

    on_config(_name, _count, good="compact")
setting("format", 1, good="compact")
setting("encoding", "packed", good="compact")
setting("mask_hash", "0" * 64, good="compact")
setting("layers/0/sha256", "0" * 64, good="compact")
add("compact masks on other weights", lambda folder: None, good="compact", base="other weights")
add("compact masks on another module", lambda folder: None, good="compact", base="other module")
add("compact masks, one weight changed", lambda folder: None, good="compact", base="module with one weight changed")
