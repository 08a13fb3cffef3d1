"""From flags and a base to the splits of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.dataset_factory import create_dataset
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from timm_jackpot.data.digits import digits_split
from timm_jackpot.data.flags import DataFlags
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.source import ImageSource
from timm_jackpot.errors import DataError

# Up to this image size a split is held in memory: CIFAR-10's training images take 154 MB.
_MEMORY_PIXELS = 64
_SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Data:
    """The splits of one run, and how images are brought to the model."""

    name: str
    num_classes: int
    train: ImageSource
    val: ImageSource | None
    test: ImageSource
    config: dict[str, Any]  # timm's data config


@dataclass(frozen=True)
class _Reader:
    """One split before it is bound to a device: (PIL image, label) by position."""

    dataset: Any
    classes: tuple[str, ...] | None


def open_data(flags: DataFlags, model: nn.Module, *, device: torch.device, img_size: int | None = None) -> Data:
    """Open train, held-out and test split for a model.

    Raises:
        DataError: no data set is known for the base, a folder or split is missing, or the classes are not
            those of the model's head.
    """
    name = dataset_name(flags, model)
    config = data_config(model, img_size)
    train = _read(name, flags, flags.train_split, "train-split")
    test_split = flags.test_split or _first_split(name, flags, ("test", "validation"), "test-split")
    test = _read(name, flags, test_split, "test-split")
    num_classes = _check_classes(model, name, {flags.train_split: train, test_split: test})

    def bind(reader: _Reader, part: Tensor | None = None) -> ImageSource:
        return _bind(reader, part, flags, config, device, name)

    val_split = flags.val_split
    if val_split is None and flags.test_split is None and test_split != "validation":
        val_split = _find_split(name, flags, "validation")
    if val_split is not None:
        return Data(
            name,
            num_classes,
            bind(train),
            bind(_read(name, flags, val_split, "val-split")),
            bind(test),
            config,
        )
    part, held_out = hold_out(len(train.dataset), flags.val_fraction)
    whole = bind(train)
    if isinstance(whole, MemoryImages):
        kept, val = whole.select(part.to(device)), whole.select(held_out.to(device))
    else:
        kept, val = bind(train, part), bind(train, held_out)
    return Data(name, num_classes, kept, val if len(held_out) else None, bind(test), config)


def open_split(
    flags: DataFlags,
    split: str | None,
    model: nn.Module,
    *,
    device: torch.device,
    img_size: int | None = None,
) -> ImageSource:
    """Open one split, whole, for evaluation; by default the test split.

    Raises:
        DataError: as `open_data`.
    """
    name = dataset_name(flags, model)
    split = split or flags.test_split or _first_split(name, flags, ("test", "validation"), "test-split")
    reader = _read(name, flags, split, "test-split")
    _check_classes(model, name, {split: reader})
    return _bind(reader, None, flags, data_config(model, img_size), device, name)


def hold_out(n: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Positions to train on and positions to hold out; the same for every seed, both in order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(20240831))
    cut = round(n * fraction)
    return order[cut:].sort().values, order[:cut].sort().values


def data_config(model: nn.Module, img_size: int | None = None) -> dict[str, Any]:
    """timm's data config of a model: input_size, mean, std, interpolation, crop_pct, crop_mode."""
    cfg = resolve_data_config({}, model=model)
    if img_size is not None:
        cfg["input_size"] = (cfg["input_size"][0], img_size, img_size)
    return cfg


def dataset_name(flags: DataFlags, model: nn.Module) -> str:
    """The data set that was asked for, or else the one that the base was trained on."""
    if flags.dataset is not None:
        return "folder" if flags.dataset in ("", "folder") else flags.dataset
    if flags.data_dir is not None:
        return "folder"
    cfg = getattr(model, "pretrained_cfg", None) or {}
    architecture, classes = cfg.get("architecture", ""), cfg.get("num_classes")
    if architecture == "digits_resnet":
        return "digits"
    if architecture.startswith("cifar_") and classes in (10, 100):
        return f"torch/cifar{classes}"
    raise DataError(
        f"no data named, and none is known for {architecture or 'this model'}: give --data-dir DIR with one folder "
        "or .tar file per split, or --dataset NAME"
    )


def _check_classes(model: nn.Module, name: str, readers: dict[str, _Reader]) -> int:
    head = int(model.num_classes)  # pyright: ignore[reportArgumentType]
    sizes = set()
    for split, reader in readers.items():
        found = None if reader.classes is None else len(reader.classes)
        sizes.add(found)
        if found is not None and found != head:
            raise DataError(
                f"split {split} of {name} has {found} classes, but the model's head has {head}: name other data, "
                f"or give --num-classes {found} for a new head"
            )
    return head


def _read(name: str, flags: DataFlags, split: str, flag: str) -> _Reader:
    if name == "digits":
        if split not in ("train", "test"):
            raise DataError(f"digits has no split {split!r}: give --{flag} train or test")
        return _Reader(TensorDataset(*digits_split(split)), tuple("0123456789"))
    path = _find_split(name, flags, split)
    if path is None:
        raise DataError(
            f"{flags.data_dir or 'the data'} has no split {split!r}: expected a folder {split}/ or a file "
            f"{split}.tar in it; name another with --{flag}"
        )
    if name == "folder":
        try:
            dataset = create_dataset("", root=path, split=split, search_split=False)
        except (RuntimeError, OSError, AssertionError) as error:
            raise DataError(f"{path} holds no images in class folders: {error}") from error
    else:
        dataset = _create_named(name, flags, split)
    classes = getattr(dataset, "classes", None)
    if classes is None:
        reader = getattr(dataset, "reader", None)
        mapping = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
        classes = sorted(mapping, key=mapping.get) if mapping else None
    return _Reader(dataset, None if classes is None else tuple(map(str, classes)))


def _create_named(name: str, flags: DataFlags, split: str) -> Any:
    root = flags.data_dir or str(Path(torch.hub.get_dir()) / "datasets")
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        return create_dataset(name, root=root, split=split, download=name.startswith("torch/"))
    except ImportError as error:
        raise DataError(f"{name} needs a package that is not installed: pip install 'timm-jackpot[data]'") from error
    except Exception as error:
        raise DataError(
            f"{name} could not be read or downloaded ({type(error).__name__}): give --data-dir DIR with the data, or "
            "--dataset folder --data-dir DIR for image folders"
        ) from error


def _find_split(name: str, flags: DataFlags, split: str) -> str | None:
    """Where a split is: a path for image folders, the split's own name elsewhere; None where there is none."""
    if name == "digits":
        return split if split in ("train", "test") else None
    if name.startswith("torch/"):
        # timm reads every split that is not "train" as test, so nothing else may be asked for.
        return split if split in ("train", "test") else None
    if name != "folder":
        return split
    if flags.data_dir is None:
        raise DataError("image folders need --data-dir DIR, with one folder or .tar file per split")
    root = Path(flags.data_dir)
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist: give --data-dir DIR")
    for word in next((words for words in _SYNONYMS.values() if split in words), (split,)):
        for path in (root / word, root / f"{word}.tar"):
            if path.is_dir() or path.is_file():
                return str(path)
    return None


def _first_split(name: str, flags: DataFlags, splits: tuple[str, ...], flag: str) -> str:
    for split in splits:
        if _find_split(name, flags, split) is not None:
            return split
    raise DataError(f"{flags.data_dir} has neither a split {' nor '.join(splits)}: name one with --{flag}")


def _bind(
    reader: _Reader,
    part: Tensor | None,
    flags: DataFlags,
    config: dict[str, Any],
    device: torch.device,
    name: str,
) -> ImageSource:
    channels, height, width = config["input_size"]
    hflip = flags.hflip if flags.hflip is not None else (0.0 if name == "digits" else 0.5)
    if max(height, width) <= _MEMORY_PIXELS:
        images, labels = (
            reader.dataset.tensors if name == "digits" else _decode(reader.dataset, channels, (width, height))
        )
        if part is not None:
            images, labels = images[part], labels[part]
        padding = flags.crop_padding if flags.crop_padding is not None else height // (16 if name == "digits" else 8)
        return MemoryImages(images.to(device), labels.to(device), config["mean"], config["std"], hflip, padding)
    if name == "digits":
        raise DataError(f"digits are 32-pixel images, but the model wants {height}: name other data with --dataset")
    transform = {key: config[key] for key in ("input_size", "mean", "std", "interpolation")}
    return LoaderImages(
        reader.dataset,
        torch.arange(len(reader.dataset)) if part is None else part,
        create_transform(**transform, is_training=True, hflip=hflip, color_jitter=None),  # pyright: ignore
        create_transform(**transform, crop_pct=config["crop_pct"], crop_mode=config["crop_mode"]),  # pyright: ignore
        flags.workers,
        device,
    )


def _decode(dataset: Any, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Read every image once into a uint8 tensor [n, c, h, w]."""
    images = np.empty((len(dataset), size[1], size[0], channels), dtype=np.uint8)
    labels = np.empty(len(dataset), dtype=np.int64)
    for i in range(len(dataset)):
        image, labels[i] = dataset[i]
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        images[i] = np.asarray(image).reshape(images.shape[1:])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
