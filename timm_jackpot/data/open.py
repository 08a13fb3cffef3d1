"""From flags and a base to the splits of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from timm_jackpot.data.digits import DIGITS_SIZE
from timm_jackpot.data.flags import DataFlags
from timm_jackpot.data.imagenet import Relabelled, imagenet_labels, is_imagenet_1k
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.read import (
    Reader,
    UnreadableImage,
    find_split,
    first_split,
    hub_data,
    image_name,
    read_image,
    read_split,
    share_images,
)
from timm_jackpot.data.source import ImageSource, Unreadable, train_part
from timm_jackpot.errors import DataError

# Up to this image size a split is held in memory: CIFAR-10's training images take 154 MB.
_MEMORY_PIXELS = 64
# 100 of ImageNet's classes: train and validation are from ImageNet's training images, test from its validation
# images. Class names are synsets.
_IMAGENET_DEFAULT = "hfds/timm/mini-imagenet"


@dataclass(frozen=True)
class Data:
    """The splits of one run, and how images are brought to the model."""

    name: str
    num_classes: int
    train: ImageSource
    val: ImageSource | None
    test: ImageSource
    config: dict[str, Any]  # timm's data config
    unreadable: Unreadable  # what was left out so far
    labels: tuple[str, ...] | None = None  # names of the classes, where the data has them and they are the head's


def open_data(flags: DataFlags, model: nn.Module, *, device: torch.device, img_size: int | None = None) -> Data:
    """Open train, held-out and test split for a model.

    Labels are the model's own indices: classes that are named by ImageNet synsets keep their places among the
    1,000 of an ImageNet-1k base, however few of them the data has.

    Raises:
        DataError: no data set is known for the base, a folder or split is missing, images of the test split are
            among the others, or the classes are not those of the model's head.
    """
    name = dataset_name(flags, model)
    config = data_config(model, img_size, mean=flags.mean, std=flags.std)
    test_split = flags.test_split or first_split(name, flags, ("test", "validation"), "test-split")
    val_split = flags.val_split
    if val_split is None:
        free = not any(share_images(name, flags, "validation", split) for split in (flags.train_split, test_split))
        val_split = "validation" if free and find_split(name, flags, "validation") is not None else None
    wanted = {"train-split": flags.train_split, "test-split": test_split, "val-split": val_split}
    for flag in ("train-split", "val-split"):
        split = wanted[flag]
        if split is not None and share_images(name, flags, split, test_split):
            raise DataError(
                f"--{flag} {split} has images of the split that is tested on ({test_split}): name another split with "
                f"--{flag} or --test-split"
            )
    shown = flags.dataset_name or name
    splits = {flag: (split, read_split(name, flags, split, flag)) for flag, split in wanted.items() if split}
    readers = _match_head(model, name, dict(splits.values()))

    unreadable = Unreadable(strict=flags.strict)

    def bind(split: str, part: Tensor | None = None) -> ImageSource:
        return _bind(readers[split], part, flags, config, device, name, unreadable)

    num_classes, test = _head(model), bind(test_split)
    classes = readers[flags.train_split].classes
    labels = tuple(map(str, classes)) if classes is not None and len(classes) == num_classes else ()
    labels = labels if labels and all(label.isprintable() and len(label) <= 500 for label in labels) else None
    whole = bind(flags.train_split)

    def take(positions: Tensor) -> ImageSource:
        if isinstance(whole, MemoryImages):
            return whole.select(positions.to(device))
        return bind(flags.train_split, positions)

    mine = train_part(len(whole), flags.train_part)
    if val_split is not None:
        train = whole if flags.train_part is None else take(mine)
        return Data(shown, num_classes, train, bind(val_split), test, config, unreadable, labels)
    part, held_out = hold_out(len(mine), flags.val_fraction)
    val = take(mine[held_out]) if len(held_out) else None
    return Data(shown, num_classes, take(mine[part]), val, test, config, unreadable, labels)


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
    split = split or flags.test_split or first_split(name, flags, ("test", "validation"), "test-split")
    config = data_config(model, img_size, mean=flags.mean, std=flags.std)
    reader = _match_head(model, name, {split: read_split(name, flags, split, "test-split")})[split]
    return _bind(reader, None, flags, config, device, name, Unreadable(strict=flags.strict))


def hold_out(n: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Positions to train on and positions to hold out; the same for every seed, both in order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(20240831))
    cut = round(n * fraction)
    return order[cut:].sort().values, order[:cut].sort().values


def data_config(
    model: nn.Module,
    img_size: int | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> dict[str, Any]:
    """timm's data config of a model: input_size, mean, std, interpolation, crop_pct, crop_mode.

    Args:
        img_size, mean, std: what differs from the model's own.

    Raises:
        DataError: the model takes neither grey nor RGB images, or mean and std are not one number for each channel.
    """
    cfg = resolve_data_config({}, model=model)
    channels = _in_chans(model) or cfg["input_size"][0]
    if channels not in (1, 3):
        raise DataError(f"the model takes {channels} channels, but images have 1 or 3: give --in-chans 3")
    if channels != cfg["input_size"][0]:  # timm's pretrained_cfg still tells of the checkpoint's channels
        cfg["input_size"] = (channels, *cfg["input_size"][1:])
        cfg["mean"], cfg["std"] = ((sum(cfg[key]) / len(cfg[key]),) * channels for key in ("mean", "std"))
    if img_size is not None:
        cfg["input_size"] = (cfg["input_size"][0], img_size, img_size)
    for key, given in (("mean", mean), ("std", std)):
        if given is not None:
            if len(given) != channels or (key == "std" and min(given) <= 0):
                raise DataError(f"--{key} {' '.join(map(str, given))}: give {channels} numbers, one for each channel")
            cfg[key] = tuple(given)
    return cfg


def dataset_name(flags: DataFlags, model: nn.Module) -> str:
    """The data set that was asked for, or else the one that the base was trained on, or a small part of it."""
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
    if is_imagenet_1k(model):
        return _IMAGENET_DEFAULT
    raise DataError(
        f"no data named, and none is known for {architecture or 'this model'}: give --data-dir DIR with one folder "
        "or .tar file per split, or --dataset NAME"
    )


def default_data_notice(flags: DataFlags, model: nn.Module, *, steps: Callable[[int], int] | None = None) -> str | None:
    """One line for stderr before data that nobody named is downloaded; None where there is nothing to tell.

    Args:
        steps: from the number of training images to the steps of the run.

    Raises:
        DataError: the data set cannot be looked up.
    """
    if flags.dataset is not None or dataset_name(flags, model) != _IMAGENET_DEFAULT:
        return None
    data = hub_data(_IMAGENET_DEFAULT, flags)
    size = data.bytes_to_fetch
    if data.is_cached:
        cost = "in the local cache already"
    elif size is None:
        cost = "a download of unknown size"
    else:
        cost = f"{size[0] / 1e9:.1f} GB to download, {sum(size) / 1e9:.1f} GB on disk"
    images = ", ".join(f"{n:,} {split}" for split, n in data.splits.items())
    parts = [f"no data named: taking {_IMAGENET_DEFAULT}, a part of ImageNet ({images} images; {cost})"]
    if steps is not None and flags.train_split in data.splits:
        count = steps(data.splits[flags.train_split])
        parts.append(f"steps: {count:,}, and only the first ones can tell how long that takes (--steps N for fewer)")
    return "; ".join([*parts, "--data-dir or --dataset name other data"])


def _head(model: nn.Module) -> int:
    return int(model.num_classes)  # pyright: ignore[reportArgumentType]


def _in_chans(model: nn.Module) -> int | None:
    """Input channels of the stem that timm's pretrained_cfg names, if it names one."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    stem = cfg.get("first_conv") or None
    name = stem[0] if isinstance(stem, (tuple, list)) else stem
    found = getattr(dict(model.named_modules()).get(str(name)), "in_channels", None)
    # TResNet's stem folds 4 × 4 pixels into channels.
    return None if found == 16 * cfg.get("input_size", (3,))[0] else found


def _match_head(model: nn.Module, name: str, readers: dict[str, Reader]) -> dict[str, Reader]:
    """Bring every split's labels to the head's indices; refuse what does not fit."""
    matched, head, first = {}, _head(model), None
    for split, reader in readers.items():
        matched[split] = reader
        if reader.classes is None:
            continue
        labels = imagenet_labels(reader.classes) if is_imagenet_1k(model) else None
        if labels is not None:
            matched[split] = Reader(Relabelled(reader.dataset, labels), reader.classes)
            continue
        found, (known, classes) = len(reader.classes), first or (split, reader.classes)
        if found != head:
            raise DataError(
                f"split {split} of {name} has {found} classes, but the model's head has {head}: name other data, "
                f"or {_way_to_a_new_head(model, found)}"
            )
        if reader.classes != classes:
            raise DataError(f"split {split} of {name} has other classes than split {known}")
        first = (known, classes)
    return matched


def _way_to_a_new_head(model: nn.Module, classes: int) -> str:
    if (getattr(model, "pretrained_cfg", None) or {}).get("source") != "module":
        return f"give --num-classes {classes} for a new head"
    return (
        f"replace the module's last layer by one with {classes} outputs, and pass num_classes={classes} and "
        "new_head=True to base_from_module"
    )


def _bind(
    reader: Reader,
    part: Tensor | None,
    flags: DataFlags,
    config: dict[str, Any],
    device: torch.device,
    name: str,
    unreadable: Unreadable,
) -> ImageSource:
    channels, height, width = config["input_size"]
    hflip = flags.hflip if flags.hflip is not None else (0.0 if name == "digits" else 0.5)
    if name == "digits" and max(height, width) > DIGITS_SIZE:
        raise DataError(
            f"digits are {DIGITS_SIZE}-pixel images, but the model wants {height}: name other data with --dataset"
        )
    if max(height, width) <= _MEMORY_PIXELS:
        if name == "digits":
            images, labels = reader.dataset.tensors
            images = images[:, :channels]
        else:
            images, labels = _decode(reader.dataset, channels, (width, height), unreadable)
        if part is not None:
            images, labels = images[part], labels[part]
        if bool((labels < 0).any()):
            images, labels = images[labels >= 0], labels[labels >= 0]
        if not len(labels):
            raise DataError(f"none of the {len(reader.dataset)} images of a split of {name} can be read")
        padding = flags.crop_padding if flags.crop_padding is not None else height // (16 if name == "digits" else 8)
        return MemoryImages(
            images.to(device), labels.to(device), config["mean"], config["std"], hflip, padding, flags.stratify
        )
    transform = {key: config[key] for key in ("input_size", "mean", "std", "interpolation")}
    return LoaderImages(
        reader.dataset,
        torch.arange(len(reader.dataset)) if part is None else part,
        create_transform(**transform, is_training=True, hflip=hflip, color_jitter=None),  # pyright: ignore
        create_transform(**transform, crop_pct=config["crop_pct"], crop_mode=config["crop_mode"]),  # pyright: ignore
        flags.workers,
        device,
        "L" if channels == 1 else "RGB",
        unreadable,
    )


def _decode(dataset: Any, channels: int, size: tuple[int, int], unreadable: Unreadable) -> tuple[Tensor, Tensor]:
    """Read every image once into a uint8 tensor [n, c, h, w]; of one that cannot be read the label is −1."""
    images = np.empty((len(dataset), size[1], size[0], channels), dtype=np.uint8)
    labels = np.empty(len(dataset), dtype=np.int64)
    for i in range(len(dataset)):
        try:
            image, labels[i] = read_image(dataset, i)
        except UnreadableImage as error:
            unreadable.note(image_name(dataset, i), str(error))
            labels[i] = -1
            continue
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        images[i] = np.asarray(image).reshape(images.shape[1:])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
