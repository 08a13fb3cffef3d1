"""The tensor files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hostile.case import (
    EXTRAS,
    FIRST,
    MASKS,
    Forged,
    add,
    forge,
    join,
    on_bytes,
    on_header,
    reseal,
    split,
    tensors_file,
)
from hostile.config import TEXTS, keys, rows_of

_FILES: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut to {n} bytes": lambda data, n=n: data[:n] for n in (0, 1, 7, 8, 9, 100)},
    "one byte short": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "with a tail": lambda data: data + b"\0",
    "with a long tail": lambda data: data + bytes(10**6),
    "all zero": lambda data: bytes(len(data)),
    "is a pickle": lambda data: TEXTS["a pickle"].ljust(len(data)),
    "is a zip archive": lambda data: TEXTS["a zip archive"].ljust(len(data), b"\0"),
    "is a text": lambda _: b"version https://git-lfs.github.com/spec/v1\n",
    **{f"with a header of 2^{n} bytes": lambda data, n=n: join(data[8:], b"", 2**n) for n in (0, 1, 2, 16, 23, 31, 63)},
    "with a header of 2^64-1 bytes": lambda data: b"\xff" * 8 + data[8:],
    "with a header one byte longer": lambda data: join(data[8:], b"", int.from_bytes(data[:8], "little") + 1),
    "with a header larger than allowed": lambda data: join(b" " * (8 << 20) + b"{}", split(data)[1]),
    "with a header of spaces": lambda data: join(b" " * (8 << 20), split(data)[1]),
    "with a header of open lists": lambda data: join(b"[" * (8 << 20), split(data)[1]),
    "with a header of empty lists": lambda data: join(b'{"a":[' + b"[]," * 2**21 + b"[]]}", split(data)[1]),
    "with a header of fewer empty lists": lambda data: join(b'{"a":[' + b"[]," * 100_000 + b"[]]}", split(data)[1]),
    "with a header of 10^5 tensors": lambda data: join(b"{" + keys(10**5) + b"}", split(data)[1]),
    "with a header of 9000 tensors": lambda data: join(b"{" + keys(9000) + b"}", split(data)[1]),
    "with a header not in UTF-8": lambda data: data.replace(b"conv1", b"conv\xff", 1),
    "with a header in UTF-16": lambda data: join(json.dumps(split(data)[0]).encode("utf-16"), split(data)[1]),
}
for _word in (b"null", b"[]", b"1", b'""', b"{", b"{}", b"NaN", b'{"__metadata__":{}}'):
    _FILES[f"with header {_word.decode()}"] = lambda data, word=_word: join(word, split(data)[1])

# What the header may say of a tensor instead of the truth: JSON, as above.
_ENTRY = r"""
dtype: "BOOL", "I8", "F8_E4M3", "F16", "F64", "U64", "u8", "f32", "PICKLE", "", null, 0, ["U8"]
shape: [], [0], [1], [55], [-54], [54.0], [true], [2147483648], [9223372036854775808], [<big>], [1, 54], null, "54", {}
shape: [4611686018427387904, 4]
data_offsets: [0, 0], [0, 53], [0, 55], [1, 55], [54, 0], [-54, 0], [0, 9223372036854775808], [<big>, <big>], [0, <big>]
data_offsets: [0.0, 54.0], [54], [0, 54, 54], [], null, "0,54", [40000, 40054]
data_offsets: [9223372036854775807, 9223372036854775861]
"""
EMPTY_TENSOR = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
_NAMES = ["extra", "", "../evil", "/etc/passwd", "a\0b", "a\n\x1b[2J", "\u202e", "e" * 10**6, "__class__"]
_METADATA: list[object] = [[], "x", 0, {"a": 1}, {"a": None}, {"a": {"b": "c"}}]


def _twice(header: dict[str, Any], name: str) -> bytes:
    again = json.dumps({name: header[name]})
    return (again[:-1] + ", " + json.dumps(header)[1:]).encode()


def _all_at_zero(header: dict[str, Any]) -> None:
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [0, entry["data_offsets"][1] - entry["data_offsets"][0]]


for _file_name, _name in ((MASKS, FIRST), (EXTRAS, "conv1.1.running_mean")):
    _short = _file_name.partition(".")[0]
    for _label, _change in _FILES.items():
        on_bytes(f"{_short} {_label}", _file_name, _change)
    on_header(f"{_short} lacks a tensor", _file_name, lambda h, n=_name: h.pop(n))
    on_header(f"{_short} with an entry twice", _file_name, lambda h, n=_name: _twice(h, n))
    on_header(f"{_short} overlap", _file_name, _all_at_zero)
    on_header(f"{_short} of a long dtype", _file_name, lambda h, n=_name: h[n].update(dtype="x" * 10**6))
    for _key in ("dtype", "shape", "data_offsets"):
        on_header(f"{_short} without {_key}", _file_name, lambda h, n=_name, key=_key: h[n].pop(key))
    for _key, _value in rows_of(_ENTRY):
        _label = f"{_short} of {_key} {json.dumps(_value)}"
        on_header(_label, _file_name, lambda h, n=_name, key=_key, value=_value: h[n].update({key: value}))
    for _value in (None, [], 0, "x", {}):
        on_header(
            f"{_short} with entry {json.dumps(_value)}", _file_name, lambda h, n=_name, v=_value: h.update({n: v})
        )
    for _more in _NAMES:
        _label = json.dumps(_more)[:20]
        on_header(f"{_short} with a tensor {_label}", _file_name, lambda h, more=_more: h.update({more: EMPTY_TENSOR}))
        on_header(
            f"{_short} renames a tensor {_label}", _file_name, lambda h, n=_name, m=_more: h.update({m: h.pop(n)})
        )
    for _value in _METADATA:
        _label = f"{_short} with metadata {json.dumps(_value)}"
        on_header(_label, _file_name, lambda h, value=_value: h.update(__metadata__=value))

_REPEATED = r"""
is: "", "{", "null", "[]", "{}", "1", "NaN", "{\"format\": 1}", "\ud800", "\"\\ud800\"", "\u0000", 1, null, {}
"""
on_header("masks without metadata", MASKS, lambda header: header.pop("__metadata__"))
for _, _value in [*rows_of(_REPEATED), ("", "[" * 10**5), ("", "x" * 10**6)]:
    _label = f"masks with metadata text {json.dumps(_value)[:30]}"
    on_header(_label, MASKS, lambda header, value=_value: header.update(__metadata__={"timm_jackpot": value}))


def repeat_value(header: dict[str, Any], key: str, value: object) -> None:
    repeated = {**json.loads(header["__metadata__"]["timm_jackpot"]), key: value}
    if value is None:
        del repeated[key]
    header["__metadata__"]["timm_jackpot"] = json.dumps(repeated)


on_header("metadata says that the format is true", MASKS, lambda header: repeat_value(header, "format", True))
on_header("metadata says that the format is a float", MASKS, lambda header: repeat_value(header, "format", 2.0))
for _key, _value in {"format": 1, "digest": "0" * 64, "mask_hash": "0" * 64, "encoding": "compact"}.items():
    on_header(f"metadata says another {_key}", MASKS, lambda header, key=_key, v=_value: repeat_value(header, key, v))
    on_header(f"metadata does not say {_key}", MASKS, lambda header, key=_key: repeat_value(header, key, None))
on_header("metadata says more", MASKS, lambda header: repeat_value(header, "surprise", 1))


def _tensors(
    name: str, file: str, change: Callable[[dict[str, tuple[str, list[int], bytes]]], object], **more: str
) -> None:
    """A case that writes other tensors than config.json names, offsets and file hash in order."""

    def build(folder: Path) -> None:
        header, body = split((folder / file).read_bytes())
        metadata = header.pop("__metadata__", {})
        tensors = {n: (e["dtype"], e["shape"], body[slice(*e["data_offsets"])]) for n, e in header.items()}
        change(tensors)
        (folder / file).write_bytes(tensors_file(tensors, metadata))
        reseal(folder, file)

    add(name, build, **more)


_ONE_MASK = 54  # bytes of the first layer's mask
for _dtype, _bytes_each in {"BOOL": 1, "I8": 1, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "U16": 2}.items():
    _tensors(
        f"the first mask unpacked as {_dtype}",
        MASKS,
        lambda t, d=_dtype, b=_bytes_each: t.update({FIRST: (d, [16, 3, 3, 3], bytes(432 * b))}),
    )
_tensors("a BOOL mask of twos", MASKS, lambda t: t.update({FIRST: ("BOOL", [54], b"\2" * 54)}))
_tensors("a float mask of the packed length", MASKS, lambda t: t.update({FIRST: ("F32", [54], bytes(216))}))
_tensors("an extra mask", MASKS, lambda t: t.update({"fc.weight": ("U8", [100], bytes(100))}))
_tensors("an extra giant mask", MASKS, lambda t: t.update({"fc.weight": ("U8", [10**6], bytes(10**6))}))
_tensors("an extra extra", EXTRAS, lambda t: t.update({"fc.bias": ("F32", [10], bytes(40))}))
_tensors("a base weight among the extras", EXTRAS, lambda t: t.update({FIRST: ("F32", [16, 3, 3, 3], bytes(1728))}))
_tensors("a base weight among the masks", MASKS, lambda t: t.update({FIRST: ("F32", [16, 3, 3, 3], bytes(1728))}))
_tensors("masks and no tensor", MASKS, lambda t: t.clear())
_tensors("extras and no tensor", EXTRAS, lambda t: t.clear())
_tensors("a mask one byte longer", MASKS, lambda t: t.update({FIRST: ("U8", [55], bytes(55))}))
_tensors("a mask one byte shorter", MASKS, lambda t: t.update({FIRST: ("U8", [53], bytes(53))}))
_tensors("a mask of no bytes", MASKS, lambda t: t.update({FIRST: ("U8", [0], b"")}))
_tensors("an empty mask", MASKS, lambda t: t.update({FIRST: ("U8", [_ONE_MASK], bytes(_ONE_MASK))}))
_tensors("a full mask", MASKS, lambda t: t.update({FIRST: ("U8", [_ONE_MASK], b"\xff" * _ONE_MASK)}))
_tensors("extras in double precision", EXTRAS, lambda t: t.update({k: ("F64", s, d * 2) for k, (_, s, d) in t.items()}))
_tensors("extras in half precision", EXTRAS, lambda t: t.update({k: ("F16", s, d[::2]) for k, (_, s, d) in t.items()}))


def _swap_masks(tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    a, b = "layer1.0.conv1.weight", "layer1.0.conv2.weight"
    tensors[a], tensors[b] = tensors[b], tensors[a]


_tensors("two masks exchanged", MASKS, _swap_masks)
_tensors("two bytes of a mask exchanged", MASKS, lambda t: _exchange(t, FIRST))


def _exchange(tensors: dict[str, tuple[str, list[int], bytes]], name: str) -> None:
    dtype, shape, data = tensors[name]
    tensors[name] = (dtype, shape, data[::-1])  # the same count, other positions: the mask hash alone sees it


for _label, _value in {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}.items():
    for _position in (0, -1):

        def _poison(forged: Forged, value: float = _value, position: int = _position) -> None:
            name = forged.config["extras"][position]["name"]
            values = np.frombuffer(forged.extras[name], "<f4").copy()
            values[position] = value
            forged.extras[name] = values.tobytes()

        forge(f"{_label} in extra {_position}", _poison)


def _negative_variance(forged: Forged) -> None:
    name = next(name for name in forged.extras if name.endswith("running_var"))
    forged.extras[name] = np.full(len(forged.extras[name]) // 4, -1, "<f4").tobytes()


forge("a negative variance", _negative_variance)
