"""A corpus of hostile artifacts, each made from a good one; as a program: load those it is told to, and say what came.

Left out on purpose: what no reader can see. Whoever rewrites masks, statistics, model arguments or metrics and
every hash over them has made another artifact, not a damaged one; two masks of equal-sized layers exchanged and
sealed again are the simplest case. Hashes detect damage, not forgery.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def _add(name: str, build: Callable[[Path], object], **more: str) -> None:
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
        config["sparsity"].update(maskable=[kept, total], requested=_requested(kept, total))
        config["sparsity"]["all_parameters"] = [everything - (total - kept), everything]
        config["mask_hash"] = hashlib.sha256(b"".join(self.masks[layer["name"]] for layer in layers)).hexdigest()
        repeated = {"format": config["format"], "digest": config["base"]["digest"]}
        repeated |= {"mask_hash": config["mask_hash"], "encoding": config["encoding"]}
        masks = {name: ("U8", [len(data)], data) for name, data in self.masks.items()}
        specs = {e["name"]: (e.get("dtype", "F32"), e["shape"]) for e in config["extras"]}
        specs |= {f"{name}::scale": ("F32", shape[:1]) for name, (dtype, shape) in specs.items() if dtype == "I8"}
        extras = {name: (*specs[name], data) for name, data in self.extras.items() if name in specs}
        (folder / MASKS).write_bytes(_file(masks, {"timm_jackpot": json.dumps(repeated)}))
        (folder / EXTRAS).write_bytes(_file(extras, {}))
        if not extras:
            (folder / EXTRAS).unlink()
            config["files"].pop(EXTRAS, None)
        (folder / CONFIG).write_text(json.dumps(config), "utf-8")
        reseal(folder)


def _requested(kept: int, total: int) -> str:
    """A sparsity that keeps `kept` of `total`."""
    return f"{Decimal(total - kept) / max(total, 1):.25f}"


def _file(tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: dict[str, str]) -> bytes:
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


def _config(name: str, change: Callable[[dict[str, Any]], object], **more: str) -> None:
    """A case that edits config.json alone."""

    def build(folder: Path) -> None:
        with edited(folder) as config:
            change(config)

    _add(name, build, **more)


def _forge(name: str, change: Callable[[Forged], object], **more: str) -> None:
    """A case that is sealed again in full: only the check that it is aimed at can see it."""

    def build(folder: Path) -> None:
        with forged(folder) as pieces:
            change(pieces)

    _add(name, build, **more)


def _text(name: str, change: Callable[[bytes], bytes]) -> None:
    """A case that edits the bytes of config.json."""

    def build(folder: Path) -> None:
        before = (folder / CONFIG).read_bytes()
        after = change(before)
        assert after != before, name
        (folder / CONFIG).write_bytes(after)

    _add(name, build)


def _bytes(name: str, file: str, change: Callable[[bytes], bytes]) -> None:
    """Two cases that edit the bytes of a tensor file: as it is, and with config.json made to agree."""

    def build(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    _add(name, build)
    _add(f"{name}, resealed", lambda folder: (build(folder), reseal(folder, file)))


def _header(name: str, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """A case that edits the header of a tensor file, config.json made to agree."""

    def build(folder: Path) -> None:
        header, body = split((folder / file).read_bytes())
        changed = change(header)
        (folder / file).write_bytes(join(changed if isinstance(changed, (bytes, dict)) else header, body))
        reseal(folder, file)

    _add(name, build)


def _put(config: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split("/")
    at: Any = config
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[int(last) if isinstance(at, list) else last] = value


def _setting(path: str, value: object, **more: str) -> None:
    """A case that sets one value of config.json; `path` is slash-separated."""
    label = json.dumps(value)
    label = label if len(label) < 50 else f"{label[:40]}… ({len(label)})"
    good = f" ({more['good']})" if "good" in more else ""
    _config(f"config {path} = {label}{good}", lambda config: _put(config, path, value), **more)


# --- config.json as text -------------------------------------------------------------------------------------

_TEXTS = {
    "empty": b"",
    "only spaces": b"  \n ",
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a string": b'"config"',
    "an empty list": b"[]",
    "an empty object": b"{}",
    "a list of objects": b"[{}]",
    "a pickle": b"cos\nsystem\n(S'id'\ntR.",
    "a zip archive": b"PK\x03\x04" + bytes(1000),
    "YAML that names a class": b"!!python/object/apply:os.system [id]",
    "10^5 open lists": b"[" * 10**5,
    "4 million open lists": b"[" * 4_000_000,
    "10^5 open objects": b'{"a":' * 10**5,
    "10^5 balanced lists": b'{"info":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "zeros": bytes(10_000),
}
for _name, _content in _TEXTS.items():
    _text(f"config is {_name}", lambda _, content=_content: content)
for _percent in (1, 10, 25, 50, 75, 90, 99):
    _text(f"config cut at {_percent} %", lambda text, percent=_percent: text[: len(text) * percent // 100])
_text("config larger than allowed by spaces", lambda text: text + b" " * (4 << 20))
_text("config larger than allowed in front", lambda text: b"\n" * (4 << 20) + text)
_text("config with a byte-order mark", lambda text: b"\xef\xbb\xbf" + text)
_text("config in UTF-16", lambda text: text.decode().encode("utf-16"))
_text("config in UTF-32", lambda text: text.decode().encode("utf-32"))
_text("config not in UTF-8", lambda text: text.replace(b'"info": {', b'"info": {"caf\xe9": 1', 1))
_text("config with an overlong slash", lambda text: text.replace(b"conv1.0", b"conv1\xc0\xaf0", 1))
_text("config with a surrogate in UTF-8", lambda text: text.replace(b"timm_jackpot", b"\xed\xa0\x80", 1))
_text("config twice", lambda text: text + text)
_text("config with a tail", lambda text: text + b"}")
_text("config in a list", lambda text: b"[" + text + b"]")
_text("config with a comment", lambda text: b"// hello\n" + text)
_text("config in single quotes", lambda text: text.replace(b'"', b"'"))
_text("config with a trailing comma", lambda text: text.rstrip()[:-1] + b",}")
_text("config with a line break in a string", lambda text: text.replace(b'"timm_jackpot"', b'"timm\njackpot"', 1))
_text("config with a NUL in a string", lambda text: text.replace(b'"timm_jackpot"', b'"timm\0jackpot"', 1))
_text("config with a leading zero", lambda text: text.replace(b'"format": 2', b'"format": 02', 1))
_text("config with a hexadecimal number", lambda text: text.replace(b'"format": 2', b'"format": 0x2', 1))
_text("config with a plus sign", lambda text: text.replace(b'"format": 2', b'"format": +2', 1))
_text("config with an underscore in a number", lambda text: text.replace(b'"format": 2', b'"format": 2_', 1))

_INFO = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e999": b"1e999",
    "-1e999": b"-1e999",
    "an integer of 10^3 digits": b"7" * 1000,
    "an integer of 4·10^6 digits": b"7" * 4_000_000,
    "a negative integer of 10^5 digits": b"-" + b"7" * 10**5,
    "a fraction of 4·10^6 digits": b"0." + b"7" * 4_000_000,
    "a fraction of 10^4 digits": b"0." + b"7" * 10**4,
    "an exponent of 10^5 digits": b"1e" + b"9" * 10**5,
    "a negative exponent of 10^5 digits": b"1e-" + b"9" * 10**5,
    "a key twice": b'{"a": 1, "a": 1}',
    "an escaped key twice": b'{"a": 1, "\\u0061": 1}',
    "a list 8 deep": b"[" * 8 + b"]" * 8,
    "objects 9 deep": b'{"a":' * 9 + b"1" + b"}" * 9,
    "a million empty lists": b"[" + b"[]," * 1_000_000 + b"[]]",
    "a million empty objects": b"[" + b"{}," * 1_000_000 + b"{}]",
    "two million zeros": b"[" + b"0," * 2_000_000 + b"0]",
    "a lone surrogate": b'"\\ud800"',
    "a lone low surrogate": b'"\\udc00"',
    "surrogates in the wrong order": b'"\\udc00\\ud800"',
    "a key with a lone surrogate": b'{"\\udbff": 1}',
    "a broken escape": b'"\\x41"',
    "a half escape": b'"\\u00"',
}
for _name, _content in _INFO.items():
    _text(f"info holds {_name}", lambda text, v=_content: text.replace(b'"info": {}', b'"info": {"x": ' + v + b"}"))


def _keys(count: int) -> bytes:
    return b",".join(b'"k%d":%d' % (i, i) for i in range(count))


_text("info of 10^5 keys", lambda text: text.replace(b'"info": {}', b'"info": {' + _keys(10**5) + b"}"))
_text("10^5 unknown keys", lambda text: text.replace(b'"info": {}', _keys(10**5) + b',"info": {}'))
_text("base with 10^5 unknown keys", lambda text: text.replace(b'"base": {', b'"base": {' + _keys(10**5) + b","))
_text("10^5 files", lambda text: text.replace(b'"files": {', b'"files": {' + _keys(10**5) + b","))
_text("10^5 aliases", lambda text: text.replace(b'"aliases": {}', b'"aliases": {' + _keys(10**5) + b"}"))
_text("10^5 model arguments", lambda t: t.replace(b'"model_kwargs": {}', b'"model_kwargs": {' + _keys(10**5) + b"}"))
_text("format twice", lambda text: text.replace(b'"format": 2,', b'"format": 2, "format": 2,', 1))
_text("digest twice", lambda text: text.replace(b'"digest"', b'"digest": "' + b"0" * 64 + b'", "digest"', 1))
_text("a layer's name twice", lambda text: text.replace(b'"kept"', b'"name": "x", "kept"', 1))
_text("layers twice", lambda text: text.replace(b'"layers"', b'"layers": [], "layers"', 1))
_text("mean is NaN", lambda text: text.replace(b"0.5", b"NaN", 1))
_text("std is infinite", lambda text: text.replace(b'"crop_pct": 1.0', b'"crop_pct": Infinity', 1))
_text("a layer name of 3.9 MB", lambda text: text.replace(b"conv1.0.weight", b"w" * 3_900_000, 1))
_text("an unknown key of 3.9 MB", lambda text: text.replace(b'"info"', b'"' + b"w" * 3_900_000 + b'": 1, "info"', 1))
_text("an unknown key that moves the cursor", lambda t: t.replace(b'"info"', b'"\\u001b[2J\\u001b[H": 1, "info"', 1))
for _number in (10**6, 10**5):  # beyond the items that are parsed at all, and within
    for _what in (b"layers", b"dense", b"extras"):
        for _item in (b"[],", b"{},", b"0,"):
            _front = b'"%s": [' % _what
            _text(
                f"{_what.decode()} of {_number} times {_item.decode()}",
                lambda text, front=_front, items=_item * _number: text.replace(front, front + items, 1),
            )
    _labels = b'"head": {"names": [], "num_classes": 10, "labels": [%s[]]}' % (b"[]," * _number)
    _text(f"labels of {_number} lists", lambda text, labels=_labels: text.replace(b'"head": null', labels, 1))
_text("a shape of a million ones", lambda t: t.replace(b"[\n    16,\n    3,", b"[" + b"1," * 10**6 + b"16,3,", 1))
_text("a shape of a million strings", lambda t: t.replace(b"[\n    16,\n    3,", b"[" + b'"",' * 10**6 + b"16,3,", 1))

# --- config.json, value by value -----------------------------------------------------------------------------

_TOP = "format producer base sparsity allocation layers dense aliases extras data encoding mask_hash files info"
for _key in _TOP.split():
    _config(f"config without {_key}", lambda config, key=_key: config.pop(key))
    _setting(_key, None)
    _setting(_key, [[]])
    if _key != "info":
        _setting(_key, {"": 0})
_config("config without head", lambda config: config.pop("head"))
_setting("head", {})
_setting("head", [])
_setting("head", False)

# One line per path: the values that each are put there, as JSON. Of several lines for a path all count.
_TOKENS = {"<big>": str(10**39), "<zeros>": "0" * 64, "<UPPER>": "F" * 64, "<first>": FIRST, "<bait>": BAIT}
_VALUES = r"""
format: 1, 3, 1000000000, 1000000000000000000000000000000, 0, -1, "1", "2", 1.0, 2.0, 1e+300, true, false
architecture: "resnet50", null
model: "x"
Format: 1
__class__: "<bait>"
auto_map: {"AutoModel": "<bait>.Model"}
_target_: "<bait>.run"
producer/name: 1, null, "timm\u001b[2J"
producer/version: 1, null
producer/path: "/etc/passwd"
base/source: "module", "file", "hub", "TIMM", "", null, 1, "pickle"
base/architecture: "", "no_such_model", "digits_resnet.sklearn", "Digits_resnet", "digits_resnet\n"
base/architecture: "digits_resnet\u0000", "d\u0456gits_resnet", "../digits_resnet", "/etc/passwd"
base/architecture: "file:///etc/passwd", "https://example.org/model", "hf-hub:evil/model", "hf_hub:evil/model"
base/architecture: "HF-HUB:evil/model", "local-dir:../secret", "local-dir:secret", "LOCAL-DIR:../secret"
base/architecture: "local-dir:/etc", "<bait>:Model", "<bait>.Model", "os.system", "resnet18"
base/architecture: "cifar_resnet20", null, ["digits_resnet"], 1
base/tag: "no_such_tag", "", "sklearn.sklearn", "../sklearn", "x:y", "sklearn\n", 1, true, []
base/model_kwargs: null, [], {"pretrained_cfg": {"file": "/etc/passwd"}}, {"pretrained_cfg": "x"}
base/model_kwargs: {"pretrained_cfg_overlay": "x"}, {"pretrained": true}, {"file": "/etc/passwd"}
base/model_kwargs: {"url": "https://example.org/weights.pth"}, {"checkpoint_path": "/etc/passwd"}
base/model_kwargs: {"cache_dir": "elsewhere"}, {"hf_hub_id": "evil/model"}, {"num_classes": 1000000}
base/model_kwargs: {"channels": 1000000}, {"layers": 1000000}, {"width": 1000000}, {"embed_dim": 1000000}
base/model_kwargs: {"block": "<bait>"}, {"norm_layer": null}, {"norm_layer": "<bait>"}
base/model_kwargs: {"norm_layer": "torch.nn.Identity"}, {"norm_layer": ["batchnorm2d"]}
base/model_kwargs: {"act_layer": "<bait>"}, {"act_layer": "<bait>.Act"}
base/model_kwargs: {"act_layer": "__import__('os').system('id')"}, {"act_layer": 1}
base/model_kwargs: {"aa_layer": "<bait>"}, {"aa_layer": 7}, {"global_pool": "<bait>"}
base/model_kwargs: {"global_pool": 1000000000000000000000000000000}, {"drop_rate": 2.0}, {"drop_rate": -1}
base/model_kwargs: {"drop_rate": <big>}, {"drop_rate": "0.5"}
base/model_kwargs: {"drop_path_rate": 2.0}, {"drop_path_rate": "x"}, {"drop_path_rate": 1e+308}
base/model_kwargs: {"drop_block_rate": "x"}, {"output_stride": 0}, {"output_stride": 7}
base/model_kwargs: {"output_stride": 1000000000}, {"output_stride": -8}, {"bn_eps": "x"}, {"bn_eps": {"a": 1}}
base/model_kwargs: {"block_dpr": 0.1}, {"init_values": 1.0}, {"img_size": 1000000}, {"qk_norm": true}
base/model_kwargs: {"pad_type": "same"}, {"": 1}, {"__class__": 1}, {"self": 1}, {"bn_eps\u0000": 1}
base/hub_id: "evil/model", "timm", "TIMM/resnet50.a1_in1k", "timm_evil/model", "timm/../evil/model"
base/hub_id: "../timm/model", "evil/timm/model", "https://example.org/timm/model", "evil/model@main"
base/hub_id: "timm/resnet50\n", "", "/", 1, []
base/revision: "main", "", "000000000000000000000000000000000000000"
base/revision: "00000000000000000000000000000000000000000", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
base/revision: "000000000000000000000000000000000000000\n", "../../../../../../../../../../../../../x", 0, false
base/num_classes: -1, 0, 1, 11, 1000, 1000000, 1000001, 2147483648, 9223372036854775808, <big>, 10.0, "10", true, null
base/in_chans: 0, -3, 1, 4, 1024, 1025, 1000000000, <big>, 3.0, "3", null
base/img_size: 0, -32, 65536, 65537, 1000000000, <big>, 32.0, "32", [32, 32], true
base/digest: "", "<zeros>", "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
base/digest: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "<UPPER>"
base/digest: "gggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg", 0, null
base/digest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
base/file: "/etc/passwd"
base/url: "https://example.org/weights.pth"
base/pretrained_cfg: {"file": "/etc/passwd"}
sparsity/requested: "0.5", "0.90001", "\u0660.\u0669", "-0", "+0.9", "0_0.9", "1e-999999999", "9e-1", "0.9 "
sparsity/requested: 0.9, null, "", "NaN", "-1", "1e999", "0.9\n", "x"
sparsity/requested: "99999999999999999999999999999999999999999", "0.9\u001b[2J"
sparsity/maskable: [0, 0], [31454, 0], [314544, 314544], [31454.0, 314544], [31454], [31454, 314544, 0], [-1, 1]
sparsity/all_parameters: [0, 0], [317338, 0], [34248, -1], [1152921504606846976, 1152921504606846976], [1, 2]
sparsity/all_parameters: [317339, 317338], null
allocation/name: "x", null, "GLOBAL", "n:m"
allocation/n: 2, -1, 9223372036854775808, <big>, "2", 2.0
allocation/m: 4, 0, <big>, false
layers/0/name: "", "../evil", "/etc/passwd", ".hidden", "<first> ", " <first>"
layers/0/name: "<first>\n", "<first>\u0000", "\u0441onv1.0.weight", "\uff43onv1.0.weight"
layers/0/name: "conv1\u20240\u2024weight", "<first>\u200b", "<first>\u202e", "CONV1.0.WEIGHT"
layers/0/name: "conv1.0.bias", "__metadata__", "__class__", "fc.weight", "conv1.3.weight", "conv1.1.weight"
layers/0/name: null, 0, ["<first>"]
layers/0/shape: [], [432], [16, 27], [3, 16, 3, 3], [16, 3, 3], [16, 3, 3, 3, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]
layers/0/shape: [16, 3, 3, 0], [16, 3, 3, -3], [-16, -3, 3, 3], [16.0, 3, 3, 3], ["16", 3, 3, 3], [true, 432]
layers/0/shape: [2147483648, 1], [2147483649]
layers/0/shape: [2147483648, 2147483648, 2147483648, 2147483648, 2147483648, 2147483648, 2147483648, 2147483648]
layers/0/shape: [9223372036854775808], [<big>], [16, 3, 3, null], [[16, 3, 3, 3]], "16", null
layers/0/kept: -1, 0, 1, 432, 433, 9007199254740992, 9007199254740993, <big>, 182.0, "182", true, null
layers/0/sha256: "", "<zeros>", "<UPPER>", "000000000000000000000000000000000000000000000000000000000000000", 0, null
layers/0/dtype: "F32"
layers: [], {}, "layers", 0
dense: [], [{"name": "<first>", "reason": "x"}], [{"name": "../x", "reason": "x"}], [{"name": "fc.weight"}]
dense/0/name: "", "fc", "fc.bias", "nowhere.weight", null, 0, "\uff46c.weight"
dense/0/reason: "", null, 0, "\u001b[2J", "a\nb"
aliases: {"nowhere.weight": "<first>"}, {"<first>": "nowhere.weight"}
aliases: {"<first>": "<first>"}, {"a": "b", "b": "a"}, {"../x": "<first>"}
aliases: {"<first>": "../x"}, {"": ""}, {"fc.weight": "<first>"}, {"fc.weight": null}, [], [["a", "b"]], null
extras: {}, "extras", [null]
extras/0/name: "", "../x", "<first>", "conv1.1.running_mean\u0000", "nowhere.running_mean", "fc.bias", null, 0
extras/0/shape: [], [15], [17], [1, 16], [16.0], [-16], [1099511627776], null, "16"
extras/0/role: "", "mask", "weight", "head", null, 0, ["head"]
extras/0/dtype: "F16", "BF16", "I8", "F64", "U8", "f16", "float16", "", null, 1, true, ["F16"]
extras/0/scale: 1.0
extras/0/name: "conv1.1.running_mean::scale", "fc.weight::scale"
head: {"names": ["fc.weight"], "num_classes": 10, "labels": null}
head: {"names": ["fc.weight", "fc.bias"], "num_classes": 1000000, "labels": null}
head: {"names": [], "num_classes": 10, "labels": null}, {"names": ["../x"], "num_classes": 10}
head: {"names": null, "num_classes": 10}, {"names": ["fc.weight"], "num_classes": 10.0}
data/input_size: [3, 32], [3, 32, 32, 1], [3, 32, 1000000000], [1000000000, 32, 32], [3, -32, 32], [0, 0, 0]
data/input_size: [3, 32.0, 32], [3, <big>, <big>], null
data/input_size: [1, 32, 32], [2, 32, 32], [64, 32, 32]
data/mean: [0.5], [0.5, 0.5], [0.5, 0.5, 0.5, 0.5]
data/mean: ["0.5"], null, 0.5, [null], {"0": 0.5}, []
data/std: [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0], [true], "0.5", []
data/interpolation: "<bait>", "", null, 2, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "../x"
data/crop_pct: 1e-3, 1e-300, 5e-324
data/crop_pct: 0, -1.0, 1e+308, "1", null, true
data/crop_mode: "<bait>", "", null, 0
data/file: "/etc/passwd"
encoding: "compact", "PACKED", "pickle", "", 1, true
mask_hash: "", "<zeros>", "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", 0, true
files/masks.safetensors/sha256: "<zeros>", "", "<UPPER>", null, 0
files/masks.safetensors/bytes: 0, 1, -1, 40781, 40783, 50000000000, 9007199254740992, 9223372036854775808
files/masks.safetensors/bytes: <big>, 40782.0, "40782", null, true
files/extras.safetensors/sha256: "<zeros>"
files/extras.safetensors/bytes: 0, 10471, 10473, 50000000000
files/masks.safetensors/url: "https://example.org/x"
files: {}, []
files/..: {"sha256": "<zeros>", "bytes": 1}
files/pytorch_model.bin: {"sha256": "<zeros>", "bytes": 1}
files/model.safetensors: {"sha256": "<zeros>", "bytes": 1}
info: [], "info", 0
info/adapted: 0, 1, true, "", "<first>", {"0": "<first>"}, [0], [null], [["<first>"]]
info/adapted: ["<first>", 0], [""], ["nowhere.weight"]
"""


def _table(text: str) -> Iterator[tuple[str, Any]]:
    for token, meaning in _TOKENS.items():
        text = text.replace(token, meaning)
    for line in text.strip().splitlines():
        path, _, values = line.partition(": ")
        yield from ((path, value) for value in json.loads(f"[{values}]"))


_LONG_VALUES: dict[str, list[object]] = {
    "producer/name": ["x" * 101],
    "producer/version": ["9" * 101],
    "base/architecture": ["x" * 200, "x" * 10**6],
    "base/tag": ["t" * 200],
    "base/model_kwargs": [{"act_layer": "x" * 10**6}],
    "base/hub_id": ["evil/" + "x" * 196],
    "layers/0/name": ["w" * 501],
    "dense/0/reason": ["x" * 501],
    "head": [{"names": ["fc.weight"] * 17, "num_classes": 10}],
    "data/mean": [[0.5] * 65],
    "files": [{"../masks.safetensors": {"sha256": "0" * 64, "bytes": 1}}],
}
for _path, _value in [*_table(_VALUES), *((path, v) for path, values in _LONG_VALUES.items() for v in values)]:
    if f"config {_path} = {json.dumps(_value)}" not in CASES:
        _setting(_path, _value)
for _path, _last in {"layers": "layers/0", "extras": "extras/0"}.items():
    _config(f"{_path} lists an entry twice", lambda config, path=_path: config[path].append(config[path][0]))
    _config(f"{_path} lists one too few", lambda config, path=_path: config[path].pop())
    _config(f"{_path} reversed", lambda config, path=_path: (config[path].reverse(), _put(config, "format", 3)))
    for _field in ("name", "shape"):
        _config(f"{_last} without {_field}", lambda config, path=_path, field=_field: config[path][0].pop(field))
_config("dense lists a weight twice", lambda config: config["dense"].append(config["dense"][0]))
_config("extras of no kind", lambda config: config["extras"][0].pop("role"))
_config("a newer format with unknown keys", lambda config: config.update(format=3, weights="weights.bin"))
_config("a newer format of huge number", lambda config: config.update(format=int("9" * 39)))
_config("extras not among the files", lambda config: config["files"].pop(EXTRAS))
_config("masks not among the files", lambda config: config["files"].pop(MASKS))
_config("files exchanged", lambda c: c.update(files=dict(zip(c["files"], reversed(c["files"].values()), strict=True))))

# --- the tensor files ----------------------------------------------------------------------------------------

_FILES: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut to {n} bytes": lambda data, n=n: data[:n] for n in (0, 1, 7, 8, 9, 100)},
    "one byte short": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "with a tail": lambda data: data + b"\0",
    "with a long tail": lambda data: data + bytes(10**6),
    "all zero": lambda data: bytes(len(data)),
    "is a pickle": lambda data: _TEXTS["a pickle"].ljust(len(data)),
    "is a zip archive": lambda data: _TEXTS["a zip archive"].ljust(len(data), b"\0"),
    "is a text": lambda _: b"version https://git-lfs.github.com/spec/v1\n",
    **{f"with a header of 2^{n} bytes": lambda data, n=n: join(data[8:], b"", 2**n) for n in (0, 1, 2, 16, 23, 31, 63)},
    "with a header of 2^64-1 bytes": lambda data: b"\xff" * 8 + data[8:],
    "with a header one byte longer": lambda data: join(data[8:], b"", int.from_bytes(data[:8], "little") + 1),
    "with a header larger than allowed": lambda data: join(b" " * (8 << 20) + b"{}", split(data)[1]),
    "with a header of spaces": lambda data: join(b" " * (8 << 20), split(data)[1]),
    "with a header of open lists": lambda data: join(b"[" * (8 << 20), split(data)[1]),
    "with a header of empty lists": lambda data: join(b'{"a":[' + b"[]," * 2**21 + b"[]]}", split(data)[1]),
    "with a header of fewer empty lists": lambda data: join(b'{"a":[' + b"[]," * 100_000 + b"[]]}", split(data)[1]),
    "with a header of 10^5 tensors": lambda data: join(b"{" + _keys(10**5) + b"}", split(data)[1]),
    "with a header of 9000 tensors": lambda data: join(b"{" + _keys(9000) + b"}", split(data)[1]),
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
_EMPTY_TENSOR = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
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
        _bytes(f"{_short} {_label}", _file_name, _change)
    _header(f"{_short} lacks a tensor", _file_name, lambda h, n=_name: h.pop(n))
    _header(f"{_short} with an entry twice", _file_name, lambda h, n=_name: _twice(h, n))
    _header(f"{_short} overlap", _file_name, _all_at_zero)
    _header(f"{_short} of a long dtype", _file_name, lambda h, n=_name: h[n].update(dtype="x" * 10**6))
    for _key in ("dtype", "shape", "data_offsets"):
        _header(f"{_short} without {_key}", _file_name, lambda h, n=_name, key=_key: h[n].pop(key))
    for _key, _value in _table(_ENTRY):
        _label = f"{_short} of {_key} {json.dumps(_value)}"
        _header(_label, _file_name, lambda h, n=_name, key=_key, value=_value: h[n].update({key: value}))
    for _value in (None, [], 0, "x", {}):
        _header(f"{_short} with entry {json.dumps(_value)}", _file_name, lambda h, n=_name, v=_value: h.update({n: v}))
    for _more in _NAMES:
        _label = json.dumps(_more)[:20]
        _header(f"{_short} with a tensor {_label}", _file_name, lambda h, more=_more: h.update({more: _EMPTY_TENSOR}))
        _header(f"{_short} renames a tensor {_label}", _file_name, lambda h, n=_name, m=_more: h.update({m: h.pop(n)}))
    for _value in _METADATA:
        _label = f"{_short} with metadata {json.dumps(_value)}"
        _header(_label, _file_name, lambda h, value=_value: h.update(__metadata__=value))

_REPEATED = r"""
is: "", "{", "null", "[]", "{}", "1", "NaN", "{\"format\": 1}", "\ud800", "\"\\ud800\"", "\u0000", 1, null, {}
"""
_header("masks without metadata", MASKS, lambda header: header.pop("__metadata__"))
for _, _value in [*_table(_REPEATED), ("", "[" * 10**5), ("", "x" * 10**6)]:
    _label = f"masks with metadata text {json.dumps(_value)[:30]}"
    _header(_label, MASKS, lambda header, value=_value: header.update(__metadata__={"timm_jackpot": value}))


def _repeat(header: dict[str, Any], key: str, value: object) -> None:
    repeated = {**json.loads(header["__metadata__"]["timm_jackpot"]), key: value}
    if value is None:
        del repeated[key]
    header["__metadata__"]["timm_jackpot"] = json.dumps(repeated)


_header("metadata says that the format is true", MASKS, lambda header: _repeat(header, "format", True))
_header("metadata says that the format is a float", MASKS, lambda header: _repeat(header, "format", 2.0))
for _key, _value in {"format": 1, "digest": "0" * 64, "mask_hash": "0" * 64, "encoding": "compact"}.items():
    _header(f"metadata says another {_key}", MASKS, lambda header, key=_key, v=_value: _repeat(header, key, v))
    _header(f"metadata does not say {_key}", MASKS, lambda header, key=_key: _repeat(header, key, None))
_header("metadata says more", MASKS, lambda header: _repeat(header, "surprise", 1))


def _tensors(
    name: str, file: str, change: Callable[[dict[str, tuple[str, list[int], bytes]]], object], **more: str
) -> None:
    """A case that writes other tensors than config.json names, offsets and file hash in order."""

    def build(folder: Path) -> None:
        header, body = split((folder / file).read_bytes())
        metadata = header.pop("__metadata__", {})
        tensors = {n: (e["dtype"], e["shape"], body[slice(*e["data_offsets"])]) for n, e in header.items()}
        change(tensors)
        (folder / file).write_bytes(_file(tensors, metadata))
        reseal(folder, file)

    _add(name, build, **more)


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

        _forge(f"{_label} in extra {_position}", _poison)


def _negative_variance(forged: Forged) -> None:
    name = next(name for name in forged.extras if name.endswith("running_var"))
    forged.extras[name] = np.full(len(forged.extras[name]) // 4, -1, "<f4").tobytes()


_forge("a negative variance", _negative_variance)

# --- extras in fewer bits: statistics and a bias as F16, a head of 7 × 80 as I8 with a scale per row ----------------

_HEAD, _BIAS, _SCALE, _STATISTIC = "fc.weight", "fc.bias", "fc.weight::scale", "conv1.1.running_mean"
for _dtype, _width in {"U8": 1, "F8_E4M3": 1, "BOOL": 1, "F16": 2, "F32": 4}.items():
    _tensors(
        f"an int8 head as {_dtype}",
        EXTRAS,
        lambda t, d=_dtype, w=_width: t.update({_HEAD: (d, [7, 80], bytes(560 * w))}),
        good="int8",
    )
_tensors("an int8 head of another shape", EXTRAS, lambda t: t.update({_HEAD: ("I8", [560], bytes(560))}), good="int8")
_tensors("an int8 head transposed", EXTRAS, lambda t: t.update({_HEAD: ("I8", [80, 7], bytes(560))}), good="int8")
_tensors("an int8 head without its scales", EXTRAS, lambda t: t.pop(_SCALE), good="int8")
_tensors("scales under another name", EXTRAS, lambda t: t.update({"fc.weight.scale": t.pop(_SCALE)}), good="int8")
_tensors("scales of a bias", EXTRAS, lambda t: t.update({"fc.bias::scale": ("F32", [7], bytes(28))}), good="int8")
_tensors("scales of a float head", EXTRAS, lambda t: t.update({_SCALE: ("F32", [7], bytes(28))}), good="head")
for _dtype, _shape in (("F16", [7]), ("BF16", [7]), ("F64", [7]), ("F32", [7, 1]), ("F32", [1]), ("F32", [80])):
    _tensors(
        f"scales as {_dtype} of shape {_shape}",
        EXTRAS,
        lambda t, d=_dtype, s=_shape: t.update({_SCALE: (d, s, bytes(prod(s) * {"F64": 8, "F32": 4}.get(d, 2)))}),
        good="int8",
    )
_tensors(
    "a statistic as BF16 that config.json says is F16",
    EXTRAS,
    lambda t: t.update({_STATISTIC: ("BF16", *t[_STATISTIC][1:])}),
    good="int8",
)
for _value in ("F32", "BF16", "I8", "F64", "f16", None, 16):
    _setting("extras/0/dtype", _value, good="int8")
for _label, _scale in {"NaN": np.nan, "infinite": np.inf, "negative": -1, "3e38": 3e38}.items():
    _forge(
        f"sealed: a scale that is {_label}",
        lambda f, s=_scale: f.extras.update({_SCALE: np.full(7, s, "<f4").tobytes(), _HEAD: b"\x7f" * 560}),
        good="int8",
    )
_forge("sealed: int8 values of -128", lambda f: f.extras.update({_HEAD: b"\x80" * 560}), good="int8")
_forge("sealed: a bias as F16, infinite", lambda f: f.extras.update({_BIAS: b"\0\x7c" * 7}), good="int8")
_forge("sealed: a statistic as F16, NaN", lambda f: f.extras.update({_STATISTIC: b"\1\x7c" * 16}), good="int8")
_forge(
    "sealed: a negative variance as F16",
    lambda f: f.extras.update({"conv1.1.running_var": b"\0\xbc" * 16}),
    good="int8",
)


def _as_int8(name: str) -> Callable[[Forged], None]:
    """Another extra as I8, with scales."""

    def change(forged: Forged) -> None:
        entry = next(extra for extra in forged.config["extras"] if extra["name"] == name)
        entry["dtype"] = "I8"
        forged.extras[name] = bytes(prod(entry["shape"]))
        forged.extras[f"{name}::scale"] = bytes(4 * entry["shape"][0])

    return change


_forge("sealed: a statistic as I8", _as_int8(_STATISTIC), good="int8")
_forge("sealed: a bias as I8", _as_int8(_BIAS), good="int8")

# --- sealed again in full ------------------------------------------------------------------------------------


def _with_layer(change: Callable[[dict[str, Any], Forged], object], name: str = FIRST) -> Callable[[Forged], None]:
    return lambda forged: change(forged.layer(name), forged) and None


def _rename(old: str, new: str) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        forged.layer(old)["name"] = new
        forged.masks[new] = forged.masks.pop(old)

    return change


def _drop(name: str) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        forged.config["layers"].remove(forged.layer(name))
        del forged.masks[name]

    return change


def _reshape(name: str, shape: list[int]) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        forged.layer(name)["shape"] = shape
        old = forged.masks[name]
        forged.masks[name] = (old * (1 + prod(shape) // 8 // len(old)))[: (prod(shape) + 7) // 8]

    return change


def _new_layer(name: str, shape: list[int]) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        forged.config["layers"].append({"name": name, "shape": shape, "kept": 0, "sha256": "0" * 64})
        forged.masks[name] = bytes((prod(shape) + 7) // 8)

    return change


def _reorder(forged: Forged) -> None:
    forged.config["layers"].reverse()


def _swap_first_two(forged: Forged) -> None:
    layers = forged.config["layers"]
    layers[0], layers[1] = layers[1], layers[0]


def _exchange_names(forged: Forged) -> None:
    a, b = forged.layer("layer1.0.conv1.weight"), forged.layer("layer1.0.conv2.weight")
    a["sha256"], b["sha256"] = b["sha256"], a["sha256"]


def _drop_all(forged: Forged) -> None:
    forged.config["layers"].clear()
    forged.masks.clear()


_forge("sealed: a layer renamed", _rename(FIRST, "conv1.0.weights"))
_forge("sealed: a layer renamed to a norm", _rename("layer4.0.conv1.weight", "conv1.1.weight"))
_forge("sealed: a layer renamed to the classifier", _rename(FIRST, "fc.weight"))
_forge("sealed: a layer renamed to a method", _rename(FIRST, "forward"))
_forge("sealed: a layer renamed to its module", _rename(FIRST, "conv1.0"))
_forge("sealed: the first layer dropped", _drop(FIRST))
_forge("sealed: the last layer dropped", _drop("layer4.0.downsample.1.weight"))
_forge("sealed: all layers dropped", _drop_all)
_forge("sealed: layers reversed", _reorder)
_forge("sealed: the first two layers exchanged", _swap_first_two)
_forge("sealed: base hashes of two layers exchanged", _exchange_names)
_forge("sealed: a base hash changed", _with_layer(lambda layer, _: layer.update(sha256="0" * 64)))
for _shape in ([432], [16, 27], [3, 16, 3, 3], [16, 3, 9], [16, 3, 3, 3, 1], [16, 3, 3, 4], [16, 3, 3, 2], [1]):
    _forge(f"sealed: shape {_shape}", _reshape(FIRST, _shape))
_forge("sealed: a larger network", _reshape("layer4.0.conv1.weight", [160, 192, 3, 3]))
_forge("sealed: two megabytes of masks", _reshape(FIRST, [2**24]))
_forge("sealed: a layer that is nowhere", _new_layer("nowhere.weight", [8, 8]))
_forge("sealed: the classifier masked", _new_layer("fc.weight", [10, 80]))
_forge("sealed: a norm masked", _new_layer("conv1.1.weight", [16]))
_forge("sealed: a statistic masked", _new_layer("conv1.1.num_batches_tracked", []))
_forge("sealed: a bias masked", _new_layer("fc.bias", [10]))
_forge("sealed: wrong digest", lambda forged: forged.config["base"].update(digest="0" * 64))
_forge("sealed: newer format", lambda forged: forged.config.update(format=3))
_forge("sealed: compact encoding", lambda forged: forged.config.update(encoding="compact"))
_forge("sealed: no classifier left dense", lambda forged: forged.config["dense"].clear())
_forge(
    "sealed: another weight left dense",
    lambda forged: forged.config["dense"].append({"name": "layer9.conv.weight", "reason": "classifier"}),
)


def _new_extra(
    name: str, shape: list[int], role: str = "norm_affine", value: bytes | None = None
) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        forged.config["extras"].append({"name": name, "shape": shape, "role": role})
        forged.extras[name] = bytes(4 * prod(shape)) if value is None else value

    return change


_forge("sealed: a classifier as norm", _new_extra("fc.weight", [10, 80]))
_forge("sealed: a classifier's bias as statistics", _new_extra("fc.bias", [10], "norm_statistics"))
_forge("sealed: a norm's weight as statistics", _new_extra("conv1.1.weight", [16], "norm_statistics"))
_forge("sealed: an extra that is nowhere", _new_extra("nowhere.bias", [10]))
_forge("sealed: an extra of another shape", _new_extra("conv1.1.weight", [4, 4]))
_forge("sealed: an extra that counts", _new_extra("conv1.1.num_batches_tracked", []))
_forge("sealed: an extra that counts, as statistics", _new_extra("conv1.1.num_batches_tracked", [], "norm_statistics"))
_forge("sealed: a masked weight as extra", _new_extra(FIRST, [16, 3, 3, 3]))
_forge("sealed: 64 MB of extras", _new_extra("nowhere.bias", [2**24]))
_forge("sealed: a head without a head", _new_extra("fc.weight", [10, 80], "head"))


def _head(classes: int, shape: list[int] | None = None, *, declared: int | None = None) -> Callable[[Forged], None]:
    """A head of `classes`, whose weight has `shape`; all of it sealed."""
    sizes = {"fc.weight": shape or [classes, 80], "fc.bias": [shape[0] if shape else classes]}

    def change(forged: Forged) -> None:
        forged.config["extras"] = [e for e in forged.config["extras"] if e["role"] != "head"]
        for name, size in sizes.items():
            _new_extra(name, size, "head")(forged)
        forged.config["head"] = {"names": list(sizes), "num_classes": classes, "labels": None}
        forged.config["base"]["num_classes"] = classes if declared is None else declared

    return change


_forge("sealed: 10^6 classes, a small head", _head(10**6, [10, 80]))
_forge("sealed: 10^6 classes, a head of ten, no bias", lambda f: (_head(10**6, [10, 80])(f), f.config["extras"].pop()))
_forge("sealed: 10^6 classes in the base, a small head", _head(10, [10, 80], declared=10**6))
_forge("sealed: 10^5 classes in the base, a small head", _head(10, [10, 80], declared=10**5))
_forge("sealed: 10^5 classes, a small head", _head(10**5, [10, 80]))
_forge("sealed: eight classes, a head of seven", _head(8, [7, 80]), good="head")
_forge("sealed: seven classes, a head of eight", _head(7, [8, 80]), good="head")
_forge("sealed: a wrong input to the head", _head(7, [7, 81]), good="head")
_forge("sealed: a head of another base", _head(7, declared=9), good="head")
_forge("sealed: a transposed head", _head(7, [80, 7]), good="head")
_forge("sealed: no classes", _head(0, [7, 80]), good="head")
for _classes in (10**5, 10**6):

    def _sparse_head(folder: Path, classes: int = _classes) -> None:
        """A head of the size that it claims, in a file that takes no room, its hash wrong."""
        with edited(folder) as config:
            for extra in config["extras"]:
                if extra["role"] == "head":
                    extra["shape"][0] = classes
            config["head"]["num_classes"] = config["base"]["num_classes"] = classes
            config["files"][EXTRAS]["bytes"] = 5000 + 324 * classes
        os.truncate(folder / EXTRAS, 5000 + 324 * classes)

    _add(f"a sparse head of {_classes} classes", _sparse_head, good="head")
for _path, _values in {
    "head": [None],
    "head/num_classes": [8, 10, 0, 10**6, 10**7],
    "head/labels": [[], ["a"] * 6, ["a"] * 8, [1] * 7, ["a" * 501] * 7, "abcdefg"],
    "head/names": [[], ["fc.weight"], ["fc.weight", "fc.weight"], ["fc.weight", "fc.bias", "fc.bias"]],
    "base/num_classes": [8, 10, 0, 10**5, 10**6],
    "base/img_size": [65536],
    "info/adapted": [[], ["fc.weight"], [FIRST, "fc.weight", "fc.bias"]],
}.items():
    for _value in _values:
        _setting(_path, _value, good="head")
for _path, _values in {
    "base/in_chans": [2, 3, 4, 1024],
    "base/num_classes": [11],
    "info/adapted": [[], ["conv1.3.weight"], ["fc.weight"]],
    "info": [{}],
}.items():
    for _value in _values:
        _setting(_path, _value, good="grey")


def _adapt_all(forged: Forged) -> None:
    """Everything is said to be adapted: the digest covers nothing any more."""
    names = [layer["name"] for layer in forged.config["layers"]]
    names += [extra["name"] for extra in forged.config["extras"]]
    norms = {name.rpartition(".")[0] for name in names if name.endswith("running_mean")}
    names += [f"{norm}.{which}" for norm in sorted(norms) for which in ("weight", "bias")]
    forged.config["info"]["adapted"] = [*names, "fc.weight", "fc.bias"]
    forged.config["base"]["digest"] = hashlib.sha256(b"").hexdigest()


_forge("sealed: all adapted", _adapt_all)
_forge("sealed: all adapted, another base", _adapt_all, base="other weights")
_forge("sealed: all adapted, another module", _adapt_all, base="other module")
_forge("sealed: all adapted and four channels", lambda f: (_adapt_all(f), f.config["base"].update(in_chans=4)))
for _base in ("other weights", "other module", "other architecture", "module with one weight changed", "odd module"):
    _add(f"sound, but loaded on {_base}", lambda folder: None, base=_base)
_add("sound, but loaded on another checkpoint", lambda folder: None, good="vit", base="other weights")
_config("aliases of a module that ties nothing", lambda c: c.update(aliases={"2.weight": "0.weight"}), good="odd")

for _bit in range(3, 8):  # the first mask has 27 elements: its last byte uses three bits

    def _spare(forged: Forged, bit: int = _bit) -> None:
        data = bytearray(forged.masks["0.weight"])
        data[-1] |= 1 << bit
        forged.masks["0.weight"] = bytes(data)

    _forge(f"sealed: spare bit {_bit} set", _spare, good="odd")


def _all_spare(forged: Forged) -> None:
    forged.masks["0.weight"] = forged.masks["0.weight"][:-1] + b"\xff"


_forge("sealed: all spare bits set", _all_spare, good="odd")

# Image size is the one number that makes a given network allocate more. `vit` is a small vision transformer.
for _value in (17, 2048, 8192, 65536, 65537, 2**31):
    _setting("base/img_size", _value, good="vit")
for _value in ({"class_token": False}, {"init_values": 1e-5}, {"qkv_bias": False}, {"qk_norm": True}):
    _setting("base/model_kwargs", _value, good="vit")
for _value in ({"global_pool": "nonsense"}, {"norm_layer": BAIT}, {"act_layer": BAIT}, {"attn_drop_rate": -1.0}):
    _setting("base/model_kwargs", _value, good="vit")

# --- sizes that are only claimed -----------------------------------------------------------------------------


def _sparse(file: str, size: int, *, tell: bool) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        os.truncate(folder / file, size)
        if tell:
            with edited(folder) as config:
                config["files"][file]["bytes"] = size

    return build


for _file_name in (CONFIG, MASKS, EXTRAS):
    for _size in (10**9, GIANT):
        _add(f"{_file_name} is sparse, {_size} bytes", _sparse(_file_name, _size, tell=False))
        if _file_name != CONFIG:
            _add(f"{_file_name} is sparse and declared, {_size} bytes", _sparse(_file_name, _size, tell=True))


def _giant_layer(shape: list[int]) -> Callable[[Path], None]:
    """A layer of a size that it claims everywhere, in a file that takes no room."""

    def build(folder: Path) -> None:
        header, _ = split((folder / MASKS).read_bytes())
        grown = (prod(shape) + 7) // 8 - 54
        for name, entry in header.items():
            if name == FIRST:
                entry.update(shape=[54 + grown], data_offsets=[0, 54 + grown])
            elif name != "__metadata__":
                entry["data_offsets"] = [offset + grown for offset in entry["data_offsets"]]
        front = join(header, b"")
        size = len(front) + max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
        (folder / MASKS).write_bytes(front)
        os.truncate(folder / MASKS, size)
        with edited(folder) as config:
            config["layers"][0].update(shape=shape, kept=0)
            kept = sum(layer["kept"] for layer in config["layers"])
            total = sum(prod(layer["shape"]) for layer in config["layers"])
            config["sparsity"].update(maskable=[kept, total], all_parameters=[kept + 2794, total + 2794])
            config["sparsity"]["requested"] = _requested(kept, total)
            config["files"][MASKS]["bytes"] = size

    return build


for _shape in ([2**29], [2**31], [2**31, 2], [2**31, 100], [2**31, 256]):
    _add(f"a sparse mask of shape {_shape}", _giant_layer(_shape))


def _giant_extra(size: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        with edited(folder) as config:
            config["extras"][0]["shape"] = [size]
            config["files"][EXTRAS]["bytes"] = 4 * size
        os.truncate(folder / EXTRAS, 4 * size)

    return build


for _size in (2**28, 2**31):
    _add(f"a sparse extra of {_size} values", _giant_extra(_size))

# --- compact masks -------------------------------------------------------------------------------------------


def _blob(name: str, change: Callable[[bytes], bytes]) -> None:
    """A case that edits the stream of compact masks, header and config.json made to agree."""

    def build(folder: Path) -> None:
        header, body = split((folder / MASKS).read_bytes())
        after = change(body)
        assert after != body, name
        tensors = {"compact": ("U8", [len(after)], after)}
        (folder / MASKS).write_bytes(_file(tensors, header["__metadata__"]))
        reseal(folder, MASKS)

    _add(f"compact masks {name}", build, good="compact")


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

    _add(f"compact masks {name}", build, good="compact")


_compact_header("under another name", lambda header: header.update(ranks=header.pop("compact")))
_compact_header("under a layer's name", lambda header: header.update({FIRST: header.pop("compact")}))
_compact_header("beside an empty tensor", lambda header: header.update(x=_EMPTY_TENSOR))
_compact_header("beside a packed layer", lambda header: header.update({FIRST: header["compact"]}))
_compact_header("of another dtype", lambda header: header["compact"].update(dtype="I8"))
_compact_header("of two dimensions", lambda header: header["compact"]["shape"].insert(0, 1))
_compact_header("of a shorter shape", lambda header: header["compact"]["shape"].__setitem__(0, 32))
_compact_header("of 10^18 bytes", lambda header: header["compact"].update(shape=[10**18], data_offsets=[0, 10**18]))
_compact_header("with a negative offset", lambda header: header["compact"].update(data_offsets=[-1, 8]))
_compact_header("that say packed", lambda header: _repeat(header, "encoding", "packed"))


def _giant_compact(shape: list[int], size: int, source: str = "timm") -> Callable[[Path], None]:
    """Masks for a layer of a size that only config.json claims, in a sparse file of `size` bytes more."""

    def build(folder: Path) -> None:
        header, body = split((folder / MASKS).read_bytes())
        header["compact"].update(shape=[len(body) + size], data_offsets=[0, len(body) + size])
        (folder / MASKS).write_bytes(join(header, body))
        os.truncate(folder / MASKS, (folder / MASKS).stat().st_size + size)
        with edited(folder) as config:
            config["layers"][0].update(shape=shape, kept=0)
            kept = sum(layer["kept"] for layer in config["layers"])
            total = sum(prod(layer["shape"]) for layer in config["layers"])
            config["sparsity"].update(maskable=[kept, total], all_parameters=[kept + 2794, total + 2794])
            config["sparsity"]["requested"] = _requested(kept, total)
            config["files"][MASKS]["bytes"] = (folder / MASKS).stat().st_size
            config["base"]["source"] = source
        if size < 10**9:
            reseal(folder, MASKS)

    return build


for _shape in ([2**29], [2**31, 2], [2**31, 256]):
    for _size in (0, 2**24, 10**10):
        _add(f"compact masks for shape {_shape} and {_size} bytes", _giant_compact(_shape, _size), good="compact")
    _add(f"compact masks for shape {_shape} of a module", _giant_compact(_shape, 2**24, "module"), good="compact")
    _foreign = {"hub_id": "timm/nowhere", "revision": None}

    def _of_a_repo(folder: Path, shape: list[int] = _shape, foreign: dict[str, Any] = _foreign) -> None:
        _giant_compact(shape, 2**24)(folder)
        with edited(folder) as config:
            config["base"].update(foreign)

    _add(f"compact masks for shape {_shape} of a repo of its own", _of_a_repo, good="compact")
for _kept in (0, 100, 432):
    _name = f"compact masks, {_kept} kept of the first layer"

    def _count(config: dict[str, Any], kept: int = _kept) -> None:
        config["layers"][0]["kept"] = kept
        total_kept = sum(layer["kept"] for layer in config["layers"])
        total, everything = config["sparsity"]["maskable"][1], config["sparsity"]["all_parameters"][1]
        config["sparsity"].update(
            maskable=[total_kept, total],
            all_parameters=[everything - (total - total_kept), everything],
            requested=_requested(total_kept, total),
        )

    _config(_name, _count, good="compact")
_setting("format", 1, good="compact")
_setting("encoding", "packed", good="compact")
_setting("mask_hash", "0" * 64, good="compact")
_setting("layers/0/sha256", "0" * 64, good="compact")
_add("compact masks on other weights", lambda folder: None, good="compact", base="other weights")
_add("compact masks on another module", lambda folder: None, good="compact", base="other module")
_add("compact masks, one weight changed", lambda folder: None, good="compact", base="module with one weight changed")

# --- what a folder can hold ----------------------------------------------------------------------------------


def _replace(file: str, put: Callable[[Path], object]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / file).unlink()
        put(folder / file)

    return build


_PLACES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
    "a link to a folder": lambda path: path.symlink_to("/"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a link to a process": lambda path: path.symlink_to("/proc/self/environ"),
    "a link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "a link to an endless file": lambda path: path.symlink_to("/proc/kmsg"),
    "a link to its neighbour": lambda path: path.symlink_to(next(p for p in path.parent.iterdir() if p.is_file()).name),
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
}
for _file_name in (CONFIG, MASKS, EXTRAS):
    for _label, _put_there in _PLACES.items():
        _add(f"{_file_name} is {_label}", _replace(_file_name, _put_there))
_add("an empty folder", lambda folder: [path.unlink() for path in folder.iterdir()])
_add("a file instead of the folder", lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"")))
_add("a link to nowhere instead of the folder", lambda folder: (shutil.rmtree(folder), folder.symlink_to("nowhere")))
_add("a pipe instead of the folder", lambda folder: (shutil.rmtree(folder), os.mkfifo(folder)))
_add(
    "weights in a pickle instead of the masks",
    lambda folder: (folder / MASKS).rename(folder / "pytorch_model.bin"),
)


# --- as a program --------------------------------------------------------------------------------------------


class _TooSlow(BaseException):
    pass


def _raise_too_slow(*_: object) -> None:
    raise _TooSlow


def status(field: str) -> int:
    """A memory figure of this process in bytes: VmRSS (now) or VmHWM (at most, so far)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Let the kernel count the peak anew; `ru_maxrss` cannot be, and starts with the parent's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


_FORBIDDEN = (
    "pickle.find_class",
    "socket.",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "shutil.",
    "urllib.",
    "http.",
    "ctypes.dlopen",
)


class Watch:
    """What the interpreter did that no artifact may make it do."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._on = False
        sys.addaudithook(self._hook)

    def __enter__(self) -> list[str]:
        self.seen, self._on = [], True
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and (SECRET in str(arguments[0]) or "w" in str(arguments[1] or "")):
            self.seen.append(f"open {arguments!r}"[:200])

    def forbid(self, owner: Any, name: str) -> None:
        def refuse(*_: object, **__: object) -> None:
            self.seen.append(f"{owner.__name__}.{name}")
            raise AssertionError(f"{name} was called")

        setattr(owner, name, refuse)


def odd_module() -> Any:
    """A module of its author's own, with masks that leave spare bits."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 5, 1)]
    return torch.nn.Sequential(*layers).eval()


def arguments(root: Path, base: str | None) -> dict[str, Any]:
    """Further arguments of `from_pretrained` for a good artifact, or for another base."""
    if base in ("vit", "other architecture"):
        return {"base_checkpoint": root / "vit.safetensors"}
    if base == "other weights":
        return {"base_checkpoint": root / "other.safetensors"}
    if base in ("odd", "odd module"):
        return {"base": odd_module()}
    if base in ("other module", "module with one weight changed"):
        return {"base": _changed_module(only_one=base != "other module")}
    return {}


def _changed_module(*, only_one: bool) -> Any:
    import torch

    from timm_jackpot.base import load_base

    model: Any = load_base("digits_resnet").model
    with torch.no_grad():
        for parameter in [model.layer3[0].conv3.weight[0, 0, 0]] if only_one else model.parameters():
            parameter.mul_(1.5)
    return model


def attempt(load: Callable[[], object]) -> tuple[str, str]:
    """("refused", message), ("accepted", ""), or ("crashed", what escaped)."""
    from timm_jackpot.errors import JackpotError

    signal.signal(signal.SIGALRM, _raise_too_slow)
    signal.alarm(20)
    try:
        load()
    except JackpotError as error:
        return "refused", str(error)
    except BaseException as error:
        return "crashed", f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.alarm(0)
    return "accepted", ""


class Tester:
    """Loads artifacts in a process that is watched."""

    def __init__(self, root: Path) -> None:
        import pickle
        import resource

        import huggingface_hub
        import torch

        from timm_jackpot.artifact import from_pretrained, read_artifact

        self._root, self._load, self._read = root, from_pretrained, read_artifact
        for good in GOOD:
            self._load(root / "good" / good, **arguments(root, good))
        attempt(lambda: self._load(root / "nothing"))
        self._watch = Watch()
        for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
            self._watch.forbid(owner, name)
        self._watch.forbid(huggingface_hub, "hf_hub_download")
        # A hole shall end in a MemoryError, not take the machine down.
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + (4 << 30), resource.RLIM_INFINITY))
        forget_peak()
        self._baseline = status("VmHWM")

    def __call__(self, folder: str, base: str) -> dict[str, Any]:
        given = arguments(self._root, base)
        modules = set(sys.modules)
        forget_peak()
        with self._watch as seen:
            started = time.perf_counter()
            outcome, message = attempt(lambda: self._load(self._root / folder, **given))
            seconds = time.perf_counter() - started
            alone, message_alone = attempt(lambda: self._read(self._root / folder))
            seconds_alone = time.perf_counter() - started - seconds
        return {
            "outcome": outcome,
            "message": message if alone != "crashed" else message_alone,
            "alone": alone,
            "seconds": max(seconds, seconds_alone),
            "grown": status("VmHWM") - self._baseline,
            "imported": sorted(set(sys.modules) - modules),
            "seen": seen,
        }


def main() -> None:
    """Folder and base in, one pair per line; what came of it out."""
    answers = os.fdopen(os.dup(1), "w")  # whatever else prints must not come between
    os.dup2(2, 1)
    test = Tester(Path(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(test(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
