"""Open the splits of a run, given its flags and its base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from timm_jackpot.data.bind import bind_split
from timm_jackpot.data.default import dataset_name
from timm_jackpot.data.flags import DataFlags
from timm_jackpot.data.imagenet import Relabeled, imagenet_labels, is_imagenet_1k
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.read import (
    Reader,
    find_split,
    first_split,
    known_labels,
    read_split,
    share_images,
)
from timm_jackpot.data.source import ImageSource, Unreadable, part_positions
from timm_jackpot.errors import DataError


@dataclass(frozen=True)
class Data:
    """The splits of one run, and the data config."""

    name: str
    num_classes: int
    train: ImageSource
    val: ImageSource | None
    test: ImageSource
    config: dict[str, Any]  # timm's data config
    unreadable: Unreadable  # images that were left out so far
    labels: tuple[str, ...] | None = None  # class names, if the data has them and they match the head


def open_data(flags: DataFlags, model: nn.Module, *, device: torch.device, img_size: int | None = None) -> Data:
    """Open the training, validation and test splits for a model.

    Labels are the model's own class indices: for an ImageNet-1k base, classes named by synsets keep their index among
    the 1,000, even if the data has only some of them.

    Raises:
        DataError: if the base has no default dataset, a folder or split is missing, the test split overlaps another
            split, or the classes do not match the model's head.
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
                f"--{flag} {split} overlaps the test split ({test_split}): choose another split with --{flag} or "
                "--test-split"
            )
    shown = flags.dataset_name or name
    splits = {flag: (split, read_split(name, flags, split, flag)) for flag, split in wanted.items() if split}
    readers = _match_head(model, name, dict(splits.values()))

    unreadable = Unreadable(strict=flags.strict)

    def bind(split: str, part: Tensor | None = None) -> ImageSource:
        return bind_split(readers[split], part, flags, config, device, name, unreadable)

    num_classes, test = _head(model), bind(test_split)
    classes = readers[flags.train_split].classes
    labels = tuple(map(str, classes)) if classes is not None and len(classes) == num_classes else ()
    labels = labels if labels and all(label.isprintable() and len(label) <= 500 for label in labels) else None
    whole = bind(flags.train_split)

    def take(positions: Tensor) -> ImageSource:
        if isinstance(whole, MemoryImages):
            return whole.select(positions.to(device))
        return bind(flags.train_split, positions)

    listed = whole.labels.cpu() if isinstance(whole, MemoryImages) else known_labels(readers[flags.train_split].dataset)
    mine = part_positions(listed, flags.train_part)
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
    """Open one whole split for evaluation, by default the test split.

    Raises:
        DataError: as `open_data`.
    """
    name = dataset_name(flags, model)
    split = split or flags.test_split or first_split(name, flags, ("test", "validation"), "test-split")
    config = data_config(model, img_size, mean=flags.mean, std=flags.std)
    reader = _match_head(model, name, {split: read_split(name, flags, split, "test-split")})[split]
    return bind_split(reader, None, flags, config, device, name, Unreadable(strict=flags.strict))


def random_data(model: nn.Module, size: Sequence[int], n: int, device: torch.device) -> Data:
    """`n` random images [c, h, w] with random labels, for trials: the same ones to train and to test on.

    Args:
        size: c, h, w.
    """
    images = torch.randint(256, (n, *size), dtype=torch.uint8, device=device)
    labels = torch.randint(_head(model), (n,), device=device)
    split = MemoryImages(images, labels, mean=(0.5,) * size[0], std=(0.5,) * size[0], hflip=0.0, crop_padding=0)
    config = {**data_config(model), "input_size": tuple(size)}
    return Data("random images", _head(model), split, None, split, config, Unreadable())


def hold_out(n: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Sorted positions to train on and to hold out; the same for every seed."""
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
        img_size, mean, std: override the model's own.

    Raises:
        DataError: if the model takes neither grayscale nor RGB images, or mean or std is not one number per channel.
    """
    cfg = resolve_data_config({}, model=model)
    channels = _in_chans(model) or cfg["input_size"][0]
    if channels not in (1, 3):
        raise DataError(f"the model takes {channels} channels, but images have 1 or 3: give --in-chans 3")
    if channels != cfg["input_size"][0]:  # timm's pretrained_cfg still has the checkpoint's channels
        cfg["input_size"] = (channels, *cfg["input_size"][1:])
        cfg["mean"], cfg["std"] = ((sum(cfg[key]) / len(cfg[key]),) * channels for key in ("mean", "std"))
    if img_size is not None:
        cfg["input_size"] = (cfg["input_size"][0], img_size, img_size)
    for key, given in (("mean", mean), ("std", std)):
        if given is not None:
            if len(given) != channels or (key == "std" and min(given) <= 0):
                raise DataError(f"--{key} {' '.join(map(str, given))}: give {channels} numbers, one per channel")
            cfg[key] = tuple(given)
    return cfg


def _head(model: nn.Module) -> int:
    return int(model.num_classes)  # pyright: ignore[reportArgumentType]


def _in_chans(model: nn.Module) -> int | None:
    """Input channels of the stem named in timm's pretrained_cfg, if any."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    stem = cfg.get("first_conv") or None
    name = stem[0] if isinstance(stem, (tuple, list)) else stem
    found = getattr(dict(model.named_modules()).get(str(name)), "in_channels", None)
    # TResNet's stem folds 4 × 4 pixels into channels.
    return None if found == 16 * cfg.get("input_size", (3,))[0] else found


def _match_head(model: nn.Module, name: str, readers: dict[str, Reader]) -> dict[str, Reader]:
    """Map the labels of every split to the head's class indices; refuse classes that do not match."""
    matched, head, first = {}, _head(model), None
    for split, reader in readers.items():
        matched[split] = reader
        if reader.classes is None:
            if (largest := int(known_labels(reader.dataset).max())) >= head:
                raise DataError(
                    f"split {split} of {name} has the label {largest}, but the model's head has {head} classes: choose "
                    f"other data, or {_new_head_hint(model, largest + 1)}"
                )
            continue
        labels = imagenet_labels(reader.classes) if is_imagenet_1k(model) else None
        if labels is not None:
            matched[split] = Reader(Relabeled(reader.dataset, labels), reader.classes)
            continue
        found, (known, classes) = len(reader.classes), first or (split, reader.classes)
        if found != head:
            raise DataError(
                f"split {split} of {name} has {found} classes, but the model's head has {head}: choose other data, "
                f"or {_new_head_hint(model, found)}"
            )
        if reader.classes != classes:
            raise DataError(f"splits {split} and {known} of {name} have different classes: choose other splits")
        first = (known, classes)
    return matched


def _new_head_hint(model: nn.Module, classes: int) -> str:
    if (getattr(model, "pretrained_cfg", None) or {}).get("source") != "module":
        return f"give --num-classes {classes} for a new head"
    return (
        f"replace the module's last layer with one that has {classes} outputs, and pass num_classes={classes} and "
        "new_head=True to base_from_module"
    )
