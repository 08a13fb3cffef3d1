"""config.json: as text, and value by value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hostile.case import BAIT, CASES, EXTRAS, FIRST, MASKS, assign, on_config, on_text, setting

TEXTS = {
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
for _name, _content in TEXTS.items():
    on_text(f"config is {_name}", lambda _, content=_content: content)
for _percent in (1, 10, 25, 50, 75, 90, 99):
    on_text(f"config cut at {_percent} %", lambda text, percent=_percent: text[: len(text) * percent // 100])
on_text("config larger than allowed by spaces", lambda text: text + b" " * (4 << 20))
on_text("config larger than allowed in front", lambda text: b"\n" * (4 << 20) + text)
on_text("config with a byte-order mark", lambda text: b"\xef\xbb\xbf" + text)
on_text("config in UTF-16", lambda text: text.decode().encode("utf-16"))
on_text("config in UTF-32", lambda text: text.decode().encode("utf-32"))
on_text("config not in UTF-8", lambda text: text.replace(b'"info": {', b'"info": {"caf\xe9": 1', 1))
on_text("config with an overlong slash", lambda text: text.replace(b"conv1.0", b"conv1\xc0\xaf0", 1))
on_text("config with a surrogate in UTF-8", lambda text: text.replace(b"timm_jackpot", b"\xed\xa0\x80", 1))
on_text("config twice", lambda text: text + text)
on_text("config with a tail", lambda text: text + b"}")
on_text("config in a list", lambda text: b"[" + text + b"]")
on_text("config with a comment", lambda text: b"// hello\n" + text)
on_text("config in single quotes", lambda text: text.replace(b'"', b"'"))
on_text("config with a trailing comma", lambda text: text.rstrip()[:-1] + b",}")
on_text("config with a line break in a string", lambda text: text.replace(b'"timm_jackpot"', b'"timm\njackpot"', 1))
on_text("config with a NUL in a string", lambda text: text.replace(b'"timm_jackpot"', b'"timm\0jackpot"', 1))
on_text("config with a leading zero", lambda text: text.replace(b'"format": 2', b'"format": 02', 1))
on_text("config with a hexadecimal number", lambda text: text.replace(b'"format": 2', b'"format": 0x2', 1))
on_text("config with a plus sign", lambda text: text.replace(b'"format": 2', b'"format": +2', 1))
on_text("config with an underscore in a number", lambda text: text.replace(b'"format": 2', b'"format": 2_', 1))

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
    on_text(f"info holds {_name}", lambda text, v=_content: text.replace(b'"info": {}', b'"info": {"x": ' + v + b"}"))


def keys(count: int) -> bytes:
    return b",".join(b'"k%d":%d' % (i, i) for i in range(count))


on_text("info of 10^5 keys", lambda text: text.replace(b'"info": {}', b'"info": {' + keys(10**5) + b"}"))
on_text("10^5 unknown keys", lambda text: text.replace(b'"info": {}', keys(10**5) + b',"info": {}'))
on_text("base with 10^5 unknown keys", lambda text: text.replace(b'"base": {', b'"base": {' + keys(10**5) + b","))
on_text("10^5 files", lambda text: text.replace(b'"files": {', b'"files": {' + keys(10**5) + b","))
on_text("10^5 aliases", lambda text: text.replace(b'"aliases": {}', b'"aliases": {' + keys(10**5) + b"}"))
on_text("10^5 model arguments", lambda t: t.replace(b'"model_kwargs": {}', b'"model_kwargs": {' + keys(10**5) + b"}"))
on_text("format twice", lambda text: text.replace(b'"format": 2,', b'"format": 2, "format": 2,', 1))
on_text("digest twice", lambda text: text.replace(b'"digest"', b'"digest": "' + b"0" * 64 + b'", "digest"', 1))
on_text("a layer's name twice", lambda text: text.replace(b'"kept"', b'"name": "x", "kept"', 1))
on_text("layers twice", lambda text: text.replace(b'"layers"', b'"layers": [], "layers"', 1))
on_text("mean is NaN", lambda text: text.replace(b"0.5", b"NaN", 1))
on_text("std is infinite", lambda text: text.replace(b'"crop_pct": 1.0', b'"crop_pct": Infinity', 1))
on_text("a layer name of 3.9 MB", lambda text: text.replace(b"conv1.0.weight", b"w" * 3_900_000, 1))
on_text("an unknown key of 3.9 MB", lambda text: text.replace(b'"info"', b'"' + b"w" * 3_900_000 + b'": 1, "info"', 1))
on_text("an unknown key that moves the cursor", lambda t: t.replace(b'"info"', b'"\\u001b[2J\\u001b[H": 1, "info"', 1))
for _number in (10**6, 10**5):  # beyond the items that are parsed at all, and within
    for _what in (b"layers", b"dense", b"extras"):
        for _item in (b"[],", b"{},", b"0,"):
            _front = b'"%s": [' % _what
            on_text(
                f"{_what.decode()} of {_number} times {_item.decode()}",
                lambda text, front=_front, items=_item * _number: text.replace(front, front + items, 1),
            )
    _labels = b'"head": {"names": [], "num_classes": 10, "labels": [%s[]]}' % (b"[]," * _number)
    on_text(f"labels of {_number} lists", lambda text, labels=_labels: text.replace(b'"head": null', labels, 1))
on_text("a shape of a million ones", lambda t: t.replace(b"[\n    16,\n    3,", b"[" + b"1," * 10**6 + b"16,3,", 1))
on_text("a shape of a million strings", lambda t: t.replace(b"[\n    16,\n    3,", b"[" + b'"",' * 10**6 + b"16,3,", 1))

# --- config.json, value by value -----------------------------------------------------------------------------

_TOP = "format producer base sparsity allocation layers dense aliases extras data encoding mask_hash files info"
for _key in _TOP.split():
    on_config(f"config without {_key}", lambda config, key=_key: config.pop(key))
    setting(_key, None)
    setting(_key, [[]])
    if _key != "info":
        setting(_key, {"": 0})
on_config("config without head", lambda config: config.pop("head"))
setting("head", {})
setting("head", [])
setting("head", False)

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


def rows_of(text: str) -> Iterator[tuple[str, Any]]:
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
for _path, _value in [*rows_of(_VALUES), *((path, v) for path, values in _LONG_VALUES.items() for v in values)]:
    if f"config {_path} = {json.dumps(_value)}" not in CASES:
        setting(_path, _value)
for _path, _last in {"layers": "layers/0", "extras": "extras/0"}.items():
    on_config(f"{_path} lists an entry twice", lambda config, path=_path: config[path].append(config[path][0]))
    on_config(f"{_path} lists one too few", lambda config, path=_path: config[path].pop())
    on_config(f"{_path} reversed", lambda config, path=_path: (config[path].reverse(), assign(config, "format", 3)))
    for _field in ("name", "shape"):
        on_config(f"{_last} without {_field}", lambda config, path=_path, field=_field: config[path][0].pop(field))
on_config("dense lists a weight twice", lambda config: config["dense"].append(config["dense"][0]))
on_config("extras of no kind", lambda config: config["extras"][0].pop("role"))
on_config("a newer format with unknown keys", lambda config: config.update(format=3, weights="weights.bin"))
on_config("a newer format of huge number", lambda config: config.update(format=int("9" * 39)))
on_config("extras not among the files", lambda config: config["files"].pop(EXTRAS))
on_config("masks not among the files", lambda config: config["files"].pop(MASKS))
on_config(
    "files exchanged", lambda c: c.update(files=dict(zip(c["files"], reversed(c["files"].values()), strict=True)))
)
