"""Turn a split on disk into a source of batches: small images in memory, larger ones through data workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from timm_jackpot.data.digits import DIGITS_FOLDS, DIGITS_SIZE
from timm_jackpot.data.flags import DataFlags
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.read import Reader, UnreadableImage, image_name, read_image
from timm_jackpot.data.source import ImageSource, Unreadable
from timm_jackpot.errors import DataError

# Up to this image size, a split is kept in memory: CIFAR-10's training images take 154 MB.
_MEMORY_PIXELS = 64


def bind_split(
    reader: Reader,
    part: Tensor | None,
    flags: DataFlags,
    config: dict[str, Any],
    device: torch.device,
    name: str,
    unreadable: Unreadable,
) -> ImageSource:
    channels, height, width = config["input_size"]
    digits = name in DIGITS_FOLDS
    hflip = flags.hflip if flags.hflip is not None else (0.0 if digits else 0.5)
    if digits and max(height, width) > DIGITS_SIZE:
        raise DataError(
            f"the digits are {DIGITS_SIZE}-pixel images, but the model needs {height}: choose other data with --dataset"
        )
    if max(height, width) <= _MEMORY_PIXELS:
        if digits:
            images, labels = reader.dataset.tensors
            images = images[:, :channels]
        else:
            images, labels = _decode(reader.dataset, channels, (width, height), unreadable)
        if part is not None:
            images, labels = images[part], labels[part]
        if bool((labels < 0).any()):
            images, labels = images[labels >= 0], labels[labels >= 0]
        if not len(labels):
            raise DataError(f"none of the {len(reader.dataset)} images in a split of {name} can be read")
        padding = flags.crop_padding if flags.crop_padding is not None else height // (16 if digits else 8)
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
    """Read every image once into a uint8 tensor [n, c, h, w]; unreadable images get the label −1."""
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
