"""Open a split by name: (PIL image, label) by position."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from timm.data.dataset import ImageDataset
from timm.data.dataset_factory import create_dataset
from torch import Tensor
from torch.utils.data import TensorDataset

from timm_jackpot.data.digits import DIGITS_FOLDS, digits_split
from timm_jackpot.data.flags import DataFlags
from timm_jackpot.data.hub_images import PREFIX, HubData, open_hub_data
from timm_jackpot.data.shards import Shards, shards_in
from timm_jackpot.errors import DataError

_SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval"),
    "test": ("test", "testing"),
}

_TORCH_FOLDERS = ("torch/image_folder", "torch/folder")


@dataclass(frozen=True)
class Reader:
    """One split on disk: (PIL image, label) by position."""

    dataset: Any
    classes: tuple[str, ...] | None  # names in label order, if known


def read_split(name: str, flags: DataFlags, split: str, flag: str) -> Reader:
    """Open one split; `flag` is the flag that names it, for error messages.

    Raises:
        DataError: if there is no such split, or it cannot be read.
    """
    found = find_split(name, flags, split)
    if found is None:
        raise _no_split(name, flags, split, flag)
    if name in DIGITS_FOLDS:
        return Reader(TensorDataset(*digits_split(split, name)), tuple("0123456789"))
    if name.startswith(PREFIX):
        images = hub_data(name, flags).read(found, input_key=flags.input_key, target_key=flags.target_key)
        return Reader(images, images.classes)
    if name == "folder" and (shards := shards_in(Path(found))):
        return Reader(Shards(shards), None)
    if name == "folder":
        try:
            dataset = create_dataset("", root=found, split=split, search_split=False)
        except (RuntimeError, OSError, AssertionError, tarfile.TarError) as error:
            raise DataError(f"{found} holds no images in class folders: {error}") from error
    else:
        dataset = _create_named(name, flags, split)
        if (name in _TORCH_FOLDERS or "/" not in name) and _root(dataset) == flags.data_dir:
            # without a folder for the split, timm reads the whole one, training images included
            raise DataError(f"{flags.data_dir} has no folder {split}: add it, or choose another split with --{flag}")
    return Reader(dataset, _class_names(dataset))


class UnreadableImage(Exception):
    """An image that is damaged or missing; the message says why."""


def read_image(dataset: Any, index: int) -> tuple[Any, int]:
    """(PIL image, label) number `index` of any data set that a `Reader` holds.

    timm's own reader would replace an unreadable image by the next one, and so count that one twice.

    Raises:
        UnreadableImage: if it cannot be decoded.
    """
    path = _path(dataset, index)
    if path is not None and not path.is_file():  # opening a pipe would wait for its writer
        raise UnreadableImage("not a file" if path.exists() else "gone")
    try:
        if isinstance(dataset, ImageDataset):
            file, label = cast(Any, dataset.reader)[index]
            return Image.open(file).convert("RGB"), int(label)
        return dataset[index]
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise all kinds of errors for damaged images
        raise UnreadableImage(str(error) or type(error).__name__) from error


def known_labels(dataset: Any) -> Tensor:
    """[n] int64: the labels as listed, without reading an image; zeros if they are not listed."""
    files = _file_list(dataset)
    listed = getattr(files, "targets", None)  # of torchvision's data sets, and our own
    if listed is None:
        listed = [sample[1] for sample in getattr(files, "samples", ())]  # of timm's folders and tar files
    labels = torch.as_tensor(listed)
    return labels.long() if labels.shape == (len(dataset),) else torch.zeros(len(dataset), dtype=torch.int64)


def _path(dataset: Any, index: int) -> Path | None:
    """The path of an image that is a file of its own; timm's and torchvision's image folders list them alike."""
    samples = getattr(_file_list(dataset), "samples", None)
    file = None if samples is None else samples[index][0]
    return Path(file) if isinstance(file, str) else None


def _root(dataset: Any) -> str | None:
    root = getattr(_file_list(dataset), "root", None)
    return None if root is None else str(root)


def _file_list(dataset: Any) -> Any:
    """The object that lists the files: timm's reader, or torchvision's dataset itself."""
    return getattr(dataset, "reader", dataset)


def image_name(dataset: Any, index: int) -> str:
    """The file name of an image if the dataset knows it, else its position."""
    return str(dataset.filename(index)) if isinstance(dataset, (ImageDataset, Shards)) else f"number {index}"


def find_split(name: str, flags: DataFlags, split: str) -> str | None:
    """The path of a split in an image folder, else its name; None if there is none.

    An exact match wins over synonyms (validation: val, valid, eval).
    """
    if name in DIGITS_FOLDS or name.startswith("torch/"):
        # timm reads every split of torch/… other than "train" as test, so only these two are allowed.
        return split if split in ("train", "test") else None
    synonyms = next((words for words in _SYNONYMS.values() if split in words), ())
    words = dict.fromkeys((split, *synonyms))
    if name.startswith(PREFIX):
        known = hub_data(name, flags).splits
        return next((word for word in words if word.partition("[")[0] in known), None)
    if name != "folder":
        return split
    if flags.data_dir is None:
        raise DataError("image folders need --data-dir DIR, with one folder or .tar file per split")
    root = Path(flags.data_dir)
    if not os.path.isdir(root):
        raise DataError(f"data folder {root} does not exist: give --data-dir DIR")
    for word in words:
        for path in (root / word, root / f"{word}.tar"):
            if os.path.isdir(path) or os.path.isfile(path):
                return str(path)
    return None


def share_images(name: str, flags: DataFlags, one: str, other: str) -> bool:
    """Whether two splits overlap, whatever their names; False if one of them does not exist.

    Raises:
        DataError: for an invalid part of a split.
    """
    mine, theirs = (find_split(name, flags, split) for split in (one, other))
    if mine is None or theirs is None:
        return False
    if name.startswith(PREFIX):
        return hub_data(name, flags).share_images(mine, theirs)
    return mine == theirs or (name == "folder" and Path(mine).samefile(theirs))


def first_split(name: str, flags: DataFlags, splits: tuple[str, ...], flag: str) -> str:
    """The first of `splits` that exists.

    Raises:
        DataError: if none exists.
    """
    for split in splits:
        if find_split(name, flags, split) is not None:
            return split
    where = flags.data_dir if name == "folder" else name
    raise DataError(f"{where} has no split {' or '.join(splits)}: choose one with --{flag}")


def hub_data(name: str, flags: DataFlags) -> HubData:
    """The Hub dataset of this name; its unpacked copy goes to data-dir."""
    return open_hub_data(name, flags.data_dir)


def _no_split(name: str, flags: DataFlags, split: str, flag: str) -> DataError:
    if name in DIGITS_FOLDS:
        return DataError(f"{name} has no split {split!r}: give --{flag} train or test")
    if name == "folder":
        return DataError(
            f"{flags.data_dir} has no split {split!r}: expected a folder {split}/ or a file {split}.tar in it; choose "
            f"another split with --{flag}"
        )
    known = ", ".join(hub_data(name, flags).splits) if name.startswith(PREFIX) else "train, test"
    return DataError(f"{name} has no split {split!r}, only {known}: choose another with --{flag}")


def _create_named(name: str, flags: DataFlags, split: str) -> Any:
    root = flags.data_dir or str(Path(torch.hub.get_dir()) / "datasets")
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        return create_dataset(name, root=root, split=split, download=name.startswith("torch/"))
    except ImportError as error:
        raise DataError(f"{name} needs a package that is not installed: {error.name}") from error
    except Exception as error:
        raise DataError(
            f"{name} could not be read or downloaded ({type(error).__name__}): give --data-dir DIR with the data, or "
            "--dataset folder --data-dir DIR for image folders"
        ) from error


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    classes = getattr(dataset, "classes", None)
    if classes is None:
        reader = getattr(dataset, "reader", None)
        mapping = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
        classes = sorted(mapping, key=mapping.get) if mapping else None
    return None if classes is None else tuple(map(str, classes))
