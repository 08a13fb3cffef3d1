"""Made-up images, and how tests open and compare them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from timm_jackpot.data import Batch, Data, DataFlags, open_data
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.errors import DataError
from timm_jackpot.runtime.processes import Shard

CPU = torch.device("cpu")
ONE = Shard()
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def memory_images(n: int = 23, size: int = 8, hflip: float = 0.5, padding: int = 2) -> MemoryImages:
    images = torch.randint(256, (n, 3, size, size), dtype=torch.uint8)
    return MemoryImages(images, torch.arange(n), MEAN, STD, hflip, padding)


def equal(a: Iterator[Batch], b: Iterator[Batch]) -> bool:
    left, right = list(a), list(b)
    return len(left) == len(right) > 0 and all(
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) for x, y in zip(left, right, strict=True)
    )


def by_label(batch: Batch) -> dict[int, Tensor]:
    return dict(zip(batch.labels.tolist(), batch.images, strict=True))


def splitmix(seed: int, epoch: int, index: int) -> int:
    """The draw of one sample in plain integers: splitmix64's finaliser, low 62 bits."""
    x = seed * 0x1E3779B97F4A7C15 + epoch * 0x3F58476D1CE4E5B9 + 0x632BE59BD9B4E019
    x = (x % (1 << 63) + index * 0x1E3779B97F4A7C15) % (1 << 64)
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % (1 << 64)
    return (x ^ (x >> 31)) % (1 << 62)


def picture(label: int, number: int, size: int) -> Image.Image:
    pixels = np.random.default_rng(1000 * label + number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_split(root: Path, split: str, *, size: int, per_class: int, classes: str = "ab", tar: bool = False) -> None:
    """Folder `split` (or `split`.tar) in `root`: `per_class` random PNGs in one folder per class."""
    folder = root / ("unpacked-" + split if tar else split)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            picture(label, number, size).save(folder / name / f"{number}.png")
    if tar:
        with tarfile.open(root / f"{split}.tar", "w") as file:
            for name in classes:
                file.add(folder / name, name)


def small_net(classes: int = 2, size: int = 32) -> nn.Module:
    return timm.create_model("test_resnet", num_classes=classes, pretrained_cfg_overlay={"input_size": (3, size, size)})


def open_folder(root: Path, model: nn.Module | None = None, **flags: Any) -> Data:
    return open_data(DataFlags(data_dir=str(root), **flags), small_net() if model is None else model, device=CPU)


def raises_data_error(match: str, call: Callable[[], object]) -> None:
    with pytest.raises(DataError, match=match):
        call()
