"""The default dataset of a base."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from timm_jackpot.data.flags import DataFlags
from timm_jackpot.data.imagenet import is_imagenet_1k
from timm_jackpot.data.read import hub_data
from timm_jackpot.errors import DataError

# 100 of ImageNet's classes: train and validation come from ImageNet's training images, test from its validation
# images. Class names are synsets.
_IMAGENET_DEFAULT = "hfds/timm/mini-imagenet"


def dataset_name(flags: DataFlags, model: nn.Module) -> str:
    """The dataset that the flags name, or else the one that the base was trained on (or a small part of it)."""
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
        f"no dataset given, and {architecture or 'this model'} has no default: give --data-dir DIR with one folder "
        "or .tar file per split, or --dataset NAME"
    )


def default_data_notice(flags: DataFlags, model: nn.Module, *, steps: Callable[[int], int] | None = None) -> str | None:
    """One line for stderr before a default dataset is downloaded; None if there is nothing to say.

    Args:
        steps: computes the steps of the run from the number of training images.

    Raises:
        DataError: if the dataset cannot be found.
    """
    if flags.dataset is not None or dataset_name(flags, model) != _IMAGENET_DEFAULT:
        return None
    data = hub_data(_IMAGENET_DEFAULT, flags)
    size = data.bytes_to_fetch
    if data.is_cached:
        cost = "already in the local cache"
    elif size is None:
        cost = "a download of unknown size"
    else:
        cost = f"{size[0] / 1e9:.1f} GB to download, {sum(size) / 1e9:.1f} GB on disk"
    images = ", ".join(f"{n:,} {split}" for split, n in data.splits.items())
    parts = [f"no dataset given: using {_IMAGENET_DEFAULT}, a part of ImageNet ({images} images; {cost})"]
    if steps is not None and flags.train_split in data.splits:
        count = steps(data.splits[flags.train_split])
        parts.append(f"steps: {count:,} (fewer with --steps N; the time left shows after the first few)")
    return "; ".join([*parts, "--data-dir or --dataset choose other data"])
