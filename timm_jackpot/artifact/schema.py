"""config.json, strictly: every key known, every type exact, every list bounded."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field

from timm_jackpot.base import BaseRef
from timm_jackpot.base.ref import MAX_CLASSES, Hex64
from timm_jackpot.schema import Document

FORMAT = 2  # written by this version
PACKED_ONLY_FORMAT = 1  # still read, except for its compact masks, whose coding was different
MAX_CONFIG_BYTES = 4 * 1024 * 1024
CONFIG, MASKS, EXTRAS = "config.json", "masks.safetensors", "extras.safetensors"

Encoding = Literal["packed", "compact"]
COMPACT = "compact"  # name of the only tensor in masks.safetensors in that encoding

ExtrasDtype = Literal["float32", "float16", "bfloat16", "int8"]  # as chosen; int8 is for a head's matrices only
StoredDtype = Literal["F32", "F16", "BF16", "I8"]  # of one tensor

# timm's largest networks have 7·10⁹ weights: a size beyond these limits is an attack.
MAX_WEIGHTS, MAX_EXTRAS = 2**33, 2**28

MAX_PIXELS = 2 * 4096  # per side, before cropping

Count = Annotated[int, Field(ge=0, le=2**53)]
_PRINTABLE = r"^\P{Cc}*$"  # no control characters, which could move a terminal's cursor
Text = Annotated[str, Field(max_length=500, pattern=_PRINTABLE)]
Name = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$")]
# fail_fast: thousands of validation errors would take more memory than the file.
Shape = Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(max_length=8, fail_fast=True)]
Pixels = Annotated[int, Field(ge=1, le=4096)]


class Producer(Document):
    name: str = Field(max_length=100, pattern=_PRINTABLE)
    version: str = Field(max_length=100, pattern=_PRINTABLE)


class Sparsity(Document):
    requested: str = Field(max_length=40, pattern=_PRINTABLE)
    maskable: tuple[Count, Count]  # kept, total
    all_parameters: tuple[Count, Count]


class Allocation(Document):
    name: Literal["global", "uniform", "erk", "filters", "n:m"]
    n: int | None = Field(default=None, ge=1, le=1024)  # for n:m only
    m: int | None = Field(default=None, ge=1, le=1024)

    @property
    def label(self) -> str:
        """`global`, or a pattern such as 2:4."""
        return f"{self.n}:{self.m}" if self.name == "n:m" else self.name


class Layer(Document):
    name: Name
    shape: Shape
    kept: Count
    sha256: Hex64

    @property
    def total(self) -> int:
        return prod(self.shape)


class Dense(Document):
    name: Name
    reason: Annotated[Text, Field(min_length=1)]


class ExtraEntry(Document):
    name: Name
    shape: Shape
    role: Literal["norm_statistics", "norm_affine", "head"]
    dtype: StoredDtype = "F32"


class Head(Document):
    names: Annotated[list[Name], Field(min_length=1, max_length=16, fail_fast=True)]
    num_classes: int = Field(ge=1, le=MAX_CLASSES)
    labels: Annotated[list[Text], Field(max_length=MAX_CLASSES, fail_fast=True)] | None = None


class DataConfig(Document):
    """timm's data config: how images are preprocessed."""

    input_size: tuple[Pixels, Pixels, Pixels]
    mean: Annotated[list[float], Field(min_length=1, max_length=64, fail_fast=True)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=64, fail_fast=True)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"]
    crop_pct: float = Field(gt=0, le=8)
    crop_mode: Literal["center", "squash", "border"]


class FileEntry(Document):
    sha256: Hex64
    bytes: Count


class Config(Document):
    format: int = Field(ge=PACKED_ONLY_FORMAT, le=FORMAT)  # a Literal would accept 1.0 and true
    producer: Producer
    base: BaseRef
    sparsity: Sparsity
    allocation: Allocation
    layers: Annotated[list[Layer], Field(fail_fast=True)]
    dense: Annotated[list[Dense], Field(fail_fast=True)]
    aliases: dict[Name, Name]
    extras: Annotated[list[ExtraEntry], Field(fail_fast=True)]
    head: Head | None
    data: DataConfig
    encoding: Encoding
    mask_hash: Hex64
    files: dict[Literal["masks.safetensors", "extras.safetensors"], FileEntry]
    info: dict[str, Any]
