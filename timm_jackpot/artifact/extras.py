"""How extras are stored: as float32, in fewer bits, or, for the matrix of a head, as int8 rows with a scale each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from timm_jackpot.artifact.schema import EXTRAS, MASKS, Config, ExtraEntry, ExtrasDtype, StoredDtype
from timm_jackpot.artifact.tensors_file import Spec, body_bytes
from timm_jackpot.errors import ArtifactError, ConfigError

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_STEPS = 127  # of an int8 row, to either side


def stored_dtype(role: str, dim: int, dtype: ExtrasDtype) -> StoredDtype:
    """The dtype that a tensor of that role and number of dimensions is stored in.

    Raises:
        ConfigError: for an unknown choice of dtype.
    """
    if dtype not in get_args(ExtrasDtype):
        raise ConfigError(f"extras are stored as {', '.join(get_args(ExtrasDtype))}, not {dtype!r}")
    if dtype == "int8":
        return "I8" if may_be_int8(role, dim) else "F16"
    return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]  # pyright: ignore[reportReturnType]


def may_be_int8(role: str, dim: int) -> bool:
    """Whether int8 is allowed: for matrices of the head, a row per class."""
    return role == "head" and dim == 2


def encode_extra(name: str, role: str, tensor: Tensor, dtype: ExtrasDtype) -> dict[str, Tensor]:
    """The tensors that extras.safetensors holds for one extra, by name.

    Encoding what was decoded gives the same bits.

    Raises:
        ArtifactError: if a value is not finite, or too large for `dtype`.
        ConfigError: for an unknown choice of dtype.
    """
    stored, values = stored_dtype(role, tensor.dim(), dtype), tensor.detach().float().cpu().contiguous()
    if not bool(values.isfinite().all()):
        raise ArtifactError(f"{name} holds values that are not finite: no artifact can store them")
    tensors = _as_int8(name, values) if stored == "I8" else {name: values.to(_FLOATS[stored])}
    if not bool(decode_extra(name, stored, tensors).isfinite().all()):
        wider = "float32" if dtype == "bfloat16" else "bfloat16 or float32"
        raise ArtifactError(
            f"{name} holds a value of magnitude {float(values.abs().max()):.6g}, too large to be stored as {dtype}: "
            f"choose {wider} for the extras"
        )
    return tensors


def decode_extra(name: str, stored: StoredDtype, tensors: Mapping[str, Tensor]) -> Tensor:
    """One extra, as float32."""
    values = tensors[name].float()
    return values * tensors[scale_of(name)][:, None] if stored == "I8" else values


def rounded_extra(name: str, role: str, tensor: Tensor, dtype: ExtrasDtype) -> Tensor:
    """The values that a reader of the artifact gets, as float32.

    Raises:
        ArtifactError, ConfigError: as `encode_extra`.
    """
    return decode_extra(name, stored_dtype(role, tensor.dim(), dtype), encode_extra(name, role, tensor, dtype))


def extra_specs(entry: ExtraEntry) -> dict[str, Spec]:
    """Dtypes and shapes of the tensors that extras.safetensors holds for one extra."""
    specs: dict[str, Spec] = {entry.name: (entry.dtype, entry.shape)}
    return {**specs, scale_of(entry.name): ("F32", entry.shape[:1])} if entry.dtype == "I8" else specs


def scale_of(name: str) -> str:
    """The name of a tensor's scales, which no tensor of a model can have."""
    return f"{name}::scale"


def check_extra(entry: ExtraEntry, tensors: Mapping[str, Tensor]) -> None:
    """Check the values of one extra as stored.

    Raises:
        ArtifactError: if they are not finite, not valid int8 rows, or negative variances.
    """
    name = entry.name
    if entry.dtype == "I8":
        scale = tensors[scale_of(name)]
        if not bool((scale.isfinite() & (scale >= 0)).all()):
            raise ArtifactError(f"{EXTRAS}: {scale_of(name)} holds a scale that is negative or not finite")
        if bool((tensors[name] < -_STEPS).any()):
            raise ArtifactError(f"{EXTRAS}: {name} holds -128, but int8 values go from -127 to 127")
    values = decode_extra(name, entry.dtype, tensors)
    if not bool(values.isfinite().all()):
        raise ArtifactError(f"{EXTRAS}: {name} holds values that are not finite")
    if name.endswith("running_var") and bool((values < 0).any()):
        raise ArtifactError(f"{EXTRAS}: {name} holds a negative variance")


def bytes_by_kind(config: Config) -> dict[str, int]:
    """Bytes of the mask, norm statistics, norm scales and shifts, and head of an artifact.

    The mask counts as its whole file, the others as their tensors in extras.safetensors, scales of int8 rows included.
    """
    sizes = {"mask": config.files[MASKS].bytes, "norm_statistics": 0, "norm_affine": 0, "head": 0}
    for entry in config.extras:
        sizes[entry.role] += body_bytes(extra_specs(entry))
    return sizes


def _as_int8(name: str, values: Tensor) -> dict[str, Tensor]:
    """Rows as int8, and a scale for each: the smallest of 16 significant bits that reaches the row's largest value.

    With 16 bits, value = int8 · scale is exact in float32, so that decoded rows are encoded to the same bits again.
    """
    exact = values.abs().amax(1) / _STEPS
    scale = ((exact.view(torch.int32) + 0xFF) & ~0xFF).view(torch.float32)
    scale[exact < torch.finfo(torch.float32).tiny] = 0  # a row that small is stored as zeros
    steps = torch.where(scale[:, None] > 0, values / scale[:, None], 0).round().clamp(-_STEPS, _STEPS)
    return {name: steps.to(torch.int8), scale_of(name): scale}
