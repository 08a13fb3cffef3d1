"""ImageNet-1k: which bases predict its 1,000 classes, and the class index of each synset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn
from torch.utils.data import Dataset

from timm_jackpot.data.read import known_labels, read_image


@lru_cache(maxsize=1)
def synset_indices() -> dict[str, int]:
    """`{"n01440764": 0, …}`: the class order of timm's ImageNet-1k heads."""
    return {name: index for index, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def is_imagenet_1k(model: nn.Module) -> bool:
    """Whether the head predicts ImageNet-1k's classes in their usual order.

    timm identifies a subset by its number of classes; a checkpoint with other label names is from another dataset.
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("label_names")
    return (
        infer_imagenet_subset(cfg) == "imagenet-1k"
        and getattr(model, "num_classes", None) == cfg["num_classes"]
        and (names is None or list(names) == list(synset_indices()))
    )


def imagenet_labels(classes: Sequence[str]) -> list[int] | None:
    """The ImageNet-1k index of each class, if all class names are synsets of it; else None."""
    indices = synset_indices()
    return [indices[name] for name in classes] if classes and all(name in indices for name in classes) else None


class Relabeled(Dataset[tuple[Any, int]]):
    """The same images; label i becomes `labels[i]`."""

    def __init__(self, dataset: Any, labels: Sequence[int]) -> None:
        self.dataset, self.labels = dataset, labels

    def __getitem__(self, position: int) -> tuple[Any, int]:
        image, label = read_image(self.dataset, position)
        return image, self.labels[label]

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def targets(self) -> list[int]:
        return [self.labels[label] for label in known_labels(self.dataset).tolist()]
