"""Untrusted safetensors files: the header is checked before any tensor is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from timm_jackpot.artifact.strict_json import parse_strict
from timm_jackpot.errors import ArtifactError

MAX_HEADER = 8 * 1024 * 1024
_WIDTH = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}

Spec = tuple[str, Sequence[int]]  # dtype, as safetensors spells it, and shape


def read_tensors(data: bytes, what: str, expected: Mapping[str, Spec]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that holds exactly `expected`.

    Numbers in the file are never trusted for allocation: sizes are compared with the bytes actually there.

    Raises:
        ArtifactError: for any difference, naming the first tensor that differs.
    """
    size = _header_bytes(data, what)
    header = parse_strict(data[8 : 8 + size], f"the header of {what}", max_bytes=MAX_HEADER)
    metadata = header.pop("__metadata__", {})
    for name, (dtype, shape) in expected.items():
        if name not in header:
            raise ArtifactError(f"{what} lacks tensor {name}")
        entry = header[name]
        found = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else None
        if found != (dtype, list(shape)):
            raise ArtifactError(f"{what}: {name} is {repr(found)[:100]}, expected {(dtype, list(shape))}")
    extra = next((name for name in header if name not in expected), None)
    if extra is not None:
        raise ArtifactError(f"{what} holds a tensor {repr(extra)[:100]} that the config does not list")
    body = body_bytes(expected)
    if len(data) - 8 - size != body:
        raise ArtifactError(f"{what} holds {len(data) - 8 - size} bytes of tensors, expected {body}")
    try:
        return load(data), metadata
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{what} is not a readable safetensors file: {error}") from error


def bytes_after_header(data: bytes, what: str) -> int:
    """Number of bytes after the header of a safetensors file.

    Raises:
        ArtifactError: if the header is not complete.
    """
    return len(data) - 8 - _header_bytes(data, what)


def _header_bytes(data: bytes, what: str) -> int:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_HEADER, len(data) - 8):
        raise ArtifactError(f"{what} is truncated or not a safetensors file")
    return size


def body_bytes(specs: Mapping[str, Spec]) -> int:
    """Bytes of the tensors alone, without the header."""
    return sum(prod(shape) * _WIDTH[dtype] for dtype, shape in specs.values())


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        ArtifactError: if it is missing, not a plain file, larger, or cannot be read.
    """
    try:
        if not path.is_file():
            raise ArtifactError(f"{path.parent} has no {path.name}: it is incomplete or not a jackpot")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ArtifactError(f"{path.name} is larger than the {limit} bytes expected")
            # Read no more than that: a file that claims to be empty, as under /proc, may never end.
            return file.read(size)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
