"""The data flags that every verb shares; names are timm's."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from timm_jackpot.base import MAX_CHANS
from timm_jackpot.schema import Settings

_LONGEST_FILE_NAME = 255  # bytes, on every file system of today


class DataFlags(Settings):
    group: ClassVar[str] = "Data"

    dataset: str | None = None
    """Data set as timm names it: torch/cifar10, hfds/…, "folder" (a folder or tar files, see data-dir), or
    digits. Default: what the base was trained on; for ImageNet-1k bases hfds/timm/mini-imagenet."""
    data_dir: str | None = None
    """Folder with the data; for image folders it holds one folder or .tar file per split."""
    dataset_name: str | None = None
    """Name of the data in a folder, to show on the card and in tables; it goes into the artifact, the folder's path
    does not."""
    train_split: str = "train"
    """Split that is searched or trained on."""
    train_part: str | None = None
    """A part of the training split in the place of all of it: 1/2 takes every second image from the first on, 2/2 the
    others. What is held out is held out of that part."""
    val_split: str | None = None
    """Split for anything that is chosen. Default: a fixed part held out of the training split."""
    test_split: str | None = None
    """Split for the final figures, read once, at the end. Default: test, else validation."""
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Part of the training split that is held out where there is no val-split; 0 holds out nothing."""
    input_key: str | None = None
    """Column of the images (hfds/… only). Default: image, else the only one that holds images."""
    target_key: str | None = None
    """Column of the labels (hfds/… only). Default: label, else the only one that holds classes."""
    batch_size: int = Field(default=128, ge=1, le=2**16, json_schema_extra={"flags": ["-b"]})
    """Images per process and forward pass."""
    strict: bool = False
    """Make an error of what would be left out with a notice: images that cannot be read."""
    workers: int = Field(default=2, ge=0, le=256, json_schema_extra={"flags": ["-j"]})
    """Loading processes (images larger than 64 px only; smaller ones stay in memory)."""
    mean: tuple[Annotated[float, Field(ge=-1e3, le=1e3)], ...] | None = Field(default=None, max_length=MAX_CHANS)
    """Normalisation of the images, one number for each channel (of [0, 1]), where it differs from the base's."""
    std: tuple[Annotated[float, Field(ge=1e-6, le=1e3)], ...] | None = Field(default=None, max_length=MAX_CHANS)
    """As mean."""
    hflip: float | None = Field(default=None, ge=0, le=1)
    """Probability of a horizontal flip. Default: 0.5; digits: 0."""
    crop_padding: int | None = Field(default=None, ge=0, le=64)
    """Pixels of zero padding for the random crop of in-memory images. Default: an eighth of the image."""

    stratify: bool = False
    """Spread every class evenly over the training batches (of all processes together) of in-memory images."""

    @field_validator("dataset")
    @classmethod
    def _a_data_set(cls, value: str | None) -> str | None:
        parts = () if value is None else value.split("/")
        if any(
            part in ("", ".", "..") or part[0] == "~" or part[1:] == ":" or not part.isprintable() or "\\" in part
            for part in parts
        ):
            raise ValueError(
                "a data set is a name such as torch/cifar10 or hfds/user/name, not a path: --dataset folder --data-dir "
                "DIR reads a folder"
            )
        return value

    @field_validator("train_split", "val_split", "test_split")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        # Cards and recipes, which are published, name data set and splits: nothing of this machine may stand there.
        if not value.strip() or not value.isprintable() or value in (".", "..") or set(value) & set("/\\"):
            raise ValueError("a split is a name such as test, not a path: --data-dir says where the folder is")
        if len(f"{value}.tar".encode()) > _LONGEST_FILE_NAME:
            raise ValueError("longer than a file's name can be: a split is a name such as test")
        return value

    @field_validator("dataset_name")
    @classmethod
    def _to_show(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\w[\w .()+-]{0,99}", value):
            raise ValueError("give letters, digits, spaces and . ( ) + - _, at most 100, as 'CIFAR-10 (JPEG)'")
        return value

    @field_validator("train_part")
    @classmethod
    def _a_part(cls, value: str | None) -> str | None:
        match = None if value is None else re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", value)
        if value is not None and not (match and int(match[1]) <= int(match[2])):
            raise ValueError("give a part as k/n with 1 ≤ k ≤ n, as 1/2")
        return value

    @model_validator(mode="after")
    def _named_folder(self) -> DataFlags:
        of_folder = self.dataset in ("", "folder") or (self.dataset is None and self.data_dir is not None)
        if self.dataset_name is not None and not of_folder:
            raise ValueError("--dataset-name names the data in a folder: give --data-dir too, and no other --dataset")
        return self
