"""ImageNet-1k by name: which bases answer with its 1,000 classes, and the index of each synset among them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn
from torch.utils.data import Dataset

from timm_jackpot.data.read import read_image


@lru_cache(maxsize=1)
def synset_indices() -> dict[str, int]:
    """`{"n01440764": 0, …}`: the order in which timm's ImageNet-1k heads answer."""
    return {name: index for index, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def is_imagenet_1k(model: nn.Module) -> bool:
    """Whether the head answers with ImageNet-1k's classes in their usual order.

    timm tells a subset by its number of classes; a checkpoint that names other labels is another data set's.
    """
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("label_names")
    return (
        infer_imagenet_subset(cfg) == "imagenet-1k"
        and getattr(model, "num_classes", None) == cfg["num_classes"]
        and (names is None or list(names) == list(synset_indices()))
    )


def imagenet_labels(classes: Sequence[str]) -> list[int] | None:
    """ImageNet-1k's index of each class, where every one is named by a synset of it; None otherwise."""
    indices = synset_indices()
    return [indices[name] for name in classes] if classes and all(name in indices for name in classes) else None


class Relabelled(Dataset[tuple[Any, int]]):
    """The same images; label i becomes `labels[i]`."""

    def __init__(self, dataset: Any, labels: Sequence[int]) -> None:
        self.dataset, self.labels = dataset, labels

    def __getitem__(self, position: int) -> tuple[Any, int]:
        image, label = read_image(self.dataset, position)
        return image, self.labels[label]

    def __len__(self) -> int:
        return len(self.dataset)
