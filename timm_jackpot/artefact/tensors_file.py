"""safetensors files from strangers: the header is checked before any tensor is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from timm_jackpot.artefact.strict_json import parse_strict
from timm_jackpot.errors import ArtefactError

_MAX_HEADER = 8 * 1024 * 1024
_WIDTH = {"U8": 1, "F32": 4}


def read_tensors(
    data: bytes, what: str, dtype: str, expected: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that holds exactly `expected`, all of one dtype.

    Nothing is allocated from a number in the file: sizes are compared with the bytes that are there.

    Raises:
        ArtefactError: for any difference, naming the first tensor that differs.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_MAX_HEADER, len(data) - 8):
        raise ArtefactError(f"{what} is truncated or no safetensors file")
    header = parse_strict(data[8 : 8 + size], f"the header of {what}", max_bytes=_MAX_HEADER)
    metadata = header.pop("__metadata__", {})
    for name, shape in expected.items():
        if name not in header:
            raise ArtefactError(f"{what} lacks tensor {name}")
        entry = header[name]
        found = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else None
        if found != (dtype, list(shape)):
            raise ArtefactError(f"{what}: {name} is {found}, expected {(dtype, list(shape))}")
    extra = next((name for name in header if name not in expected), None)
    if extra is not None:
        raise ArtefactError(f"{what} holds a tensor {extra!r} that its config does not name")
    body = sum(prod(shape) * _WIDTH[dtype] for shape in expected.values())
    if len(data) - 8 - size != body:
        raise ArtefactError(f"{what} holds {len(data) - 8 - size} bytes of tensors, expected {body}")
    try:
        return load(data), metadata
    except (SafetensorError, ValueError) as error:
        raise ArtefactError(f"{what} is no readable safetensors file: {error}") from error


def read_bytes(path: Path, limit: int) -> bytes:
    """A file's bytes, refused beyond `limit`.

    Raises:
        ArtefactError: if it is missing, not a plain file, or larger.
    """
    if not path.is_file():
        raise ArtefactError(f"{path.parent} has no {path.name}: it is incomplete, or no jackpot")
    if path.stat().st_size > limit:
        raise ArtefactError(f"{path.name} is larger than the {limit} bytes expected")
    return path.read_bytes()
