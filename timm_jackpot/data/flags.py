"""The data flags that every verb shares; names are timm's."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from timm_jackpot.base import MAX_CHANS
from timm_jackpot.data.digits import DIGITS_FOLDS
from timm_jackpot.schema import Settings

_LONGEST_FILE_NAME = 255  # bytes, on today's file systems
_STREAMED = ("hfids", "tfds", "wds")


class DataFlags(Settings):
    group: ClassVar[str] = "Data"

    dataset: str | None = None
    """Dataset by its timm name: torch/cifar10, hfds/…, "folder" (a folder or tar files, see data-dir), or digits.
    Default: what the base was trained on; for ImageNet-1k bases, hfds/timm/mini-imagenet."""
    data_dir: str | None = None
    """Folder with the data; for image folders, it contains one folder or .tar file per split."""
    dataset_name: str | None = None
    """Name of the data in a folder, for the card and tables. The artifact stores this name, never the folder's path."""
    train_split: str = "train"
    """Split to search or train on."""
    train_part: str | None = None
    """Use only a part of the training split: 1/2 takes every second image of each class, starting with the first; 2/2
    takes the others. Validation images are held out from that part."""
    val_split: str | None = None
    """Split for model selection. Default: a fixed part held out from the training split."""
    test_split: str | None = None
    """Split for the final figures, read once at the end. Default: test, else validation."""
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the training split to hold out if there is no val-split; 0 holds out nothing."""
    input_key: str | None = None
    """Column of the images (hfds/… only). Default: image, else the only column of images."""
    target_key: str | None = None
    """Column of the labels (hfds/… only). Default: label, else the only column of classes."""
    batch_size: int = Field(default=128, ge=1, le=2**16, json_schema_extra={"flags": ["-b"]})
    """Images per process and forward pass."""
    strict: bool = False
    """Stop at images that cannot be read, instead of leaving them out with a notice."""
    workers: int = Field(default=2, ge=0, le=256, json_schema_extra={"flags": ["-j"]})
    """Data-loading processes (only for images larger than 64 px; smaller ones stay in memory)."""
    mean: tuple[Annotated[float, Field(ge=-1e3, le=1e3)], ...] | None = Field(default=None, max_length=MAX_CHANS)
    """Normalization mean, one number per channel (for values in [0, 1]), if it differs from the base's."""
    std: tuple[Annotated[float, Field(ge=1e-6, le=1e3)], ...] | None = Field(default=None, max_length=MAX_CHANS)
    """Normalization standard deviation, as for mean."""
    hflip: float | None = Field(default=None, ge=0, le=1)
    """Probability of a horizontal flip. Default: 0.5; digits: 0."""
    crop_padding: int | None = Field(default=None, ge=0, le=64)
    """Pixels of zero padding for random crops of in-memory images. Default: an eighth of the image; digits: a
    sixteenth."""
    stratify: bool = False
    """Spread every class evenly over the training batches (of all processes together); in-memory images only."""

    @field_validator("dataset")
    @classmethod
    def _dataset_is_a_name(cls, value: str | None) -> str | None:
        parts = () if value is None else value.split("/")
        if any(
            part in ("", ".", "..") or part[0] == "~" or part[1:] == ":" or not part.isprintable() or "\\" in part
            for part in parts
        ):
            raise ValueError(
                "a dataset is a name such as torch/cifar10 or hfds/user/name, not a path: to read a folder, give "
                "--dataset folder --data-dir DIR"
            )
        if parts and parts[0] == "digits" and value not in DIGITS_FOLDS:
            raise ValueError(f"the digits are {', '.join(DIGITS_FOLDS)}")
        if parts and parts[0] in _STREAMED:
            raise ValueError(
                "timm streams this data set, so an epoch would not have every image exactly once: use hfds/user/name, "
                "which is downloaded, or a folder of tar shards with --data-dir DIR"
            )
        return value

    @field_validator("train_split", "val_split", "test_split")
    @classmethod
    def _split_is_a_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        # Published cards and recipes contain dataset and split names: these must not reveal paths of this machine.
        if not value.strip() or not value.isprintable() or value in (".", "..") or set(value) & set("/\\"):
            raise ValueError("a split is a name such as test, not a path: --data-dir says where the folder is")
        if len(f"{value}.tar".encode()) > _LONGEST_FILE_NAME:
            raise ValueError("this is longer than any file name: give the name of a split, such as test")
        return value

    @field_validator("dataset_name")
    @classmethod
    def _dataset_name_is_printable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\w[\w .()+-]{0,99}", value):
            raise ValueError("give at most 100 letters, digits, spaces and . ( ) + - _, such as 'CIFAR-10 (JPEG)'")
        return value

    @field_validator("train_part")
    @classmethod
    def _part_is_a_fraction(cls, value: str | None) -> str | None:
        match = None if value is None else re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", value)
        if value is not None and not (match and int(match[1]) <= int(match[2])):
            raise ValueError("give a part as k/n with 1 ≤ k ≤ n, such as 1/2")
        return value

    @model_validator(mode="after")
    def _dataset_name_has_a_folder(self) -> DataFlags:
        of_folder = self.dataset in ("", "folder") or (self.dataset is None and self.data_dir is not None)
        if self.dataset_name is not None and not of_folder:
            raise ValueError(
                "--dataset-name names the data in a folder: give it with --data-dir, and no other --dataset"
            )
        return self
