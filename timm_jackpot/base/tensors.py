"""The identity of a base's tensors: names, dtypes, shapes, hashes, and their combined digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorId(NamedTuple):
    """Identity of a tensor: safetensors dtype, shape, and sha256 of its bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def tensor_ids(model: nn.Module) -> dict[str, TensorId]:
    """Identity of every state-dict entry except `num_batches_tracked`, which does not affect the output."""
    return state_ids(model.state_dict())


def state_ids(state: Mapping[str, Tensor]) -> dict[str, TensorId]:
    """`tensor_ids` for part of a state dict."""
    state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    with ThreadPoolExecutor(2) as pool:  # hashing releases the GIL
        return dict(zip(state, pool.map(tensor_id, state.values()), strict=True))


def base_digest(ids: Mapping[str, TensorId], *, adapted: Collection[str] = ()) -> str:
    """sha256 of one line per tensor, sorted by name: name \\0 dtype \\0 d₀,d₁,… \\0 sha256 \\n.

    Args:
        ids: the result of `tensor_ids` right after loading.
        adapted: names of tensors that differ from the checkpoint; they are left out.
    """
    digest = hashlib.sha256()
    for name in sorted(set(ids) - set(adapted)):
        dtype, shape, sha256 = ids[name]
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0{sha256}\n".encode())
    return digest.hexdigest()


def norm_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Normalization layers with running statistics, by name."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "running_mean", None), Tensor) and isinstance(
            getattr(module, "running_var", None), Tensor
        ):
            yield name, module


def norm_statistics(model: nn.Module) -> list[str]:
    """State-dict names of all running means and variances."""
    return [f"{name}.{which}" for name, _ in norm_layers(model) for which in ("running_mean", "running_var")]


def norm_affine(model: nn.Module) -> dict[str, nn.Parameter]:
    """Scales and shifts of all normalization layers, by state-dict name: torch's own, and classes named like a norm."""
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in model.named_modules()
        if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm)) or "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() <= 1
    }


def copy_tensors(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of state-dict entries, on the CPU."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().clone() for name in names}


def tensor_id(tensor: Tensor) -> TensorId:
    """Identity of one tensor, independent of device and memory format."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return TensorId(
        DTYPES[tensor.dtype], tuple(tensor.shape), hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
    )
