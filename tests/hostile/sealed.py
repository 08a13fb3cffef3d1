"""Artifacts that are sealed again in full, so that all hashes agree."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from hostile.case import BAIT, EXTRAS, FIRST, Forged, add, edited, forge, on_config, setting


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


forge("sealed: a layer renamed", _rename(FIRST, "conv1.0.weights"))
forge("sealed: a layer renamed to a norm", _rename("layer4.0.conv1.weight", "conv1.1.weight"))
forge("sealed: a layer renamed to the classifier", _rename(FIRST, "fc.weight"))
forge("sealed: a layer renamed to a method", _rename(FIRST, "forward"))
forge("sealed: a layer renamed to its module", _rename(FIRST, "conv1.0"))
forge("sealed: the first layer dropped", _drop(FIRST))
forge("sealed: the last layer dropped", _drop("layer4.0.downsample.1.weight"))
forge("sealed: all layers dropped", _drop_all)
forge("sealed: layers reversed", _reorder)
forge("sealed: the first two layers exchanged", _swap_first_two)
forge("sealed: base hashes of two layers exchanged", _exchange_names)
forge("sealed: a base hash changed", _with_layer(lambda layer, _: layer.update(sha256="0" * 64)))
for _shape in ([432], [16, 27], [3, 16, 3, 3], [16, 3, 9], [16, 3, 3, 3, 1], [16, 3, 3, 4], [16, 3, 3, 2], [1]):
    forge(f"sealed: shape {_shape}", _reshape(FIRST, _shape))
forge("sealed: a larger network", _reshape("layer4.0.conv1.weight", [160, 192, 3, 3]))
forge("sealed: two megabytes of masks", _reshape(FIRST, [2**24]))
forge("sealed: a layer that is nowhere", _new_layer("nowhere.weight", [8, 8]))
forge("sealed: the classifier masked", _new_layer("fc.weight", [10, 80]))
forge("sealed: a norm masked", _new_layer("conv1.1.weight", [16]))
forge("sealed: a statistic masked", _new_layer("conv1.1.num_batches_tracked", []))
forge("sealed: a bias masked", _new_layer("fc.bias", [10]))
forge("sealed: wrong digest", lambda forged: forged.config["base"].update(digest="0" * 64))
forge("sealed: newer format", lambda forged: forged.config.update(format=3))
forge("sealed: compact encoding", lambda forged: forged.config.update(encoding="compact"))
forge("sealed: no classifier left dense", lambda forged: forged.config["dense"].clear())
forge(
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


forge("sealed: a classifier as norm", _new_extra("fc.weight", [10, 80]))
forge("sealed: a classifier's bias as statistics", _new_extra("fc.bias", [10], "norm_statistics"))
forge("sealed: a norm's weight as statistics", _new_extra("conv1.1.weight", [16], "norm_statistics"))
forge("sealed: an extra that is nowhere", _new_extra("nowhere.bias", [10]))
forge("sealed: an extra of another shape", _new_extra("conv1.1.weight", [4, 4]))
forge("sealed: an extra that counts", _new_extra("conv1.1.num_batches_tracked", []))
forge("sealed: an extra that counts, as statistics", _new_extra("conv1.1.num_batches_tracked", [], "norm_statistics"))
forge("sealed: a masked weight as extra", _new_extra(FIRST, [16, 3, 3, 3]))
forge("sealed: 64 MB of extras", _new_extra("nowhere.bias", [2**24]))
forge("sealed: a head without a head", _new_extra("fc.weight", [10, 80], "head"))


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


forge("sealed: 10^6 classes, a small head", _head(10**6, [10, 80]))
forge("sealed: 10^6 classes, a head of ten, no bias", lambda f: (_head(10**6, [10, 80])(f), f.config["extras"].pop()))
forge("sealed: 10^6 classes in the base, a small head", _head(10, [10, 80], declared=10**6))
forge("sealed: 10^5 classes in the base, a small head", _head(10, [10, 80], declared=10**5))
forge("sealed: 10^5 classes, a small head", _head(10**5, [10, 80]))
forge("sealed: eight classes, a head of seven", _head(8, [7, 80]), good="head")
forge("sealed: seven classes, a head of eight", _head(7, [8, 80]), good="head")
forge("sealed: a wrong input to the head", _head(7, [7, 81]), good="head")
forge("sealed: a head of another base", _head(7, declared=9), good="head")
forge("sealed: a transposed head", _head(7, [80, 7]), good="head")
forge("sealed: no classes", _head(0, [7, 80]), good="head")
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

    add(f"a sparse head of {_classes} classes", _sparse_head, good="head")
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
        setting(_path, _value, good="head")
for _path, _values in {
    "base/in_chans": [2, 3, 4, 1024],
    "base/num_classes": [11],
    "info/adapted": [[], ["conv1.3.weight"], ["fc.weight"]],
    "info": [{}],
}.items():
    for _value in _values:
        setting(_path, _value, good="grey")


def _adapt_all(forged: Forged) -> None:
    """Everything is said to be adapted: the digest covers nothing any more."""
    names = [layer["name"] for layer in forged.config["layers"]]
    names += [extra["name"] for extra in forged.config["extras"]]
    norms = {name.rpartition(".")[0] for name in names if name.endswith("running_mean")}
    names += [f"{norm}.{which}" for norm in sorted(norms) for which in ("weight", "bias")]
    forged.config["info"]["adapted"] = [*names, "fc.weight", "fc.bias"]
    forged.config["base"]["digest"] = hashlib.sha256(b"").hexdigest()


forge("sealed: all adapted", _adapt_all)
forge("sealed: all adapted, another base", _adapt_all, base="other weights")
forge("sealed: all adapted, another module", _adapt_all, base="other module")
forge("sealed: all adapted and four channels", lambda f: (_adapt_all(f), f.config["base"].update(in_chans=4)))
for _base in ("other weights", "other module", "other architecture", "module with one weight changed", "odd module"):
    add(f"sound, but loaded on {_base}", lambda folder: None, base=_base)
add("sound, but loaded on another checkpoint", lambda folder: None, good="vit", base="other weights")
on_config("aliases of a module that ties nothing", lambda c: c.update(aliases={"2.weight": "0.weight"}), good="odd")

for _bit in range(3, 8):  # the first mask has 27 elements: its last byte uses three bits

    def _spare(forged: Forged, bit: int = _bit) -> None:
        data = bytearray(forged.masks["0.weight"])
        data[-1] |= 1 << bit
        forged.masks["0.weight"] = bytes(data)

    forge(f"sealed: spare bit {_bit} set", _spare, good="odd")


def _all_spare(forged: Forged) -> None:
    forged.masks["0.weight"] = forged.masks["0.weight"][:-1] + b"\xff"


forge("sealed: all spare bits set", _all_spare, good="odd")

# Image size is the one number that makes a given network allocate more. `vit` is a small vision transformer.
for _value in (17, 2048, 8192, 65536, 65537, 2**31):
    setting("base/img_size", _value, good="vit")
for _value in ({"class_token": False}, {"init_values": 1e-5}, {"qkv_bias": False}, {"qk_norm": True}):
    setting("base/model_kwargs", _value, good="vit")
for _value in ({"global_pool": "nonsense"}, {"norm_layer": BAIT}, {"act_layer": BAIT}, {"attn_drop_rate": -1.0}):
    setting("base/model_kwargs", _value, good="vit")
