"""config.json, strictly: every key known, every type exact, every list bounded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from timm_jackpot.base import BaseRef
from timm_jackpot.base.ref import Hex64

FORMAT = 1
MAX_CONFIG_BYTES = 4 * 1024 * 1024
CONFIG, MASKS, EXTRAS = "config.json", "masks.safetensors", "extras.safetensors"

Count = Annotated[int, Field(ge=0, le=2**53)]
Name = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$")]
Shape = Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(max_length=8)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class Producer(_Strict):
    name: str = Field(max_length=100)
    version: str = Field(max_length=100)


class Sparsity(_Strict):
    requested: str = Field(max_length=40)
    maskable: tuple[Count, Count]  # kept, total
    all_parameters: tuple[Count, Count]


class Allocation(_Strict):
    name: Literal["global", "uniform", "erk", "n:m"]
    n: int | None = None
    m: int | None = None


class Layer(_Strict):
    name: Name
    shape: Shape
    kept: Count
    sha256: Hex64


class Dense(_Strict):
    name: Name
    reason: str = Field(max_length=500)


class ExtraEntry(_Strict):
    name: Name
    shape: Shape
    role: Literal["norm_statistics", "norm_affine", "head"]


class Head(_Strict):
    names: list[Name] = Field(max_length=16)
    num_classes: int = Field(ge=1, le=1_000_000)
    labels: list[Annotated[str, Field(max_length=500)]] | None = None


class DataConfig(_Strict):
    """timm's data config: what brings an image to the model."""

    input_size: tuple[int, int, int]
    mean: list[float] = Field(max_length=64)
    std: list[float] = Field(max_length=64)
    interpolation: str = Field(max_length=40)
    crop_pct: float
    crop_mode: str = Field(max_length=40)


class FileEntry(_Strict):
    sha256: Hex64
    bytes: Count


class Config(_Strict):
    format: Literal[1]
    producer: Producer
    base: BaseRef
    sparsity: Sparsity
    allocation: Allocation
    layers: list[Layer] = Field(max_length=100_000)
    dense: list[Dense] = Field(max_length=100_000)
    aliases: dict[Name, Name]
    extras: list[ExtraEntry] = Field(max_length=100_000)
    head: Head | None
    data: DataConfig
    encoding: Literal["packed"]
    mask_hash: Hex64
    files: dict[Literal["masks.safetensors", "extras.safetensors"], FileEntry]
    info: dict[str, Any]
