"""Extras in fewer bits: statistics and a bias as F16, a head of 7 × 80 as I8 with a scale per row."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from hostile.case import EXTRAS, Forged, forge, setting
from hostile.tensors import _tensors

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
    setting("extras/0/dtype", _value, good="int8")
for _label, _scale in {"NaN": np.nan, "infinite": np.inf, "negative": -1, "3e38": 3e38}.items():
    forge(
        f"sealed: a scale that is {_label}",
        lambda f, s=_scale: f.extras.update({_SCALE: np.full(7, s, "<f4").tobytes(), _HEAD: b"\x7f" * 560}),
        good="int8",
    )
forge("sealed: int8 values of -128", lambda f: f.extras.update({_HEAD: b"\x80" * 560}), good="int8")
forge("sealed: a bias as F16, infinite", lambda f: f.extras.update({_BIAS: b"\0\x7c" * 7}), good="int8")
forge("sealed: a statistic as F16, NaN", lambda f: f.extras.update({_STATISTIC: b"\1\x7c" * 16}), good="int8")
forge(
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


forge("sealed: a statistic as I8", _as_int8(_STATISTIC), good="int8")
forge("sealed: a bias as I8", _as_int8(_BIAS), good="int8")
