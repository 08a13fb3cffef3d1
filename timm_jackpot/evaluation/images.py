"""`predict`: the most likely classes of single images, with their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from timm_jackpot.artifact import ArtifactFlags, from_pretrained, transform_of
from timm_jackpot.errors import ConfigError, DataError
from timm_jackpot.evaluation.loop import eval_mode
from timm_jackpot.schema import Command

_BATCH = 32


class ClassProbability(NamedTuple):
    class_id: int
    name: str
    probability: float


class PredictConfig(ArtifactFlags):
    """The most likely classes of images."""

    command: ClassVar[Command | None] = Command(
        "predict",
        ("my_jackpot photo.jpg", "user/name *.png --top 1", "my_jackpot photo.jpg --json"),
    )

    images: tuple[str, ...] = Field(default=(), json_schema_extra={"positional": True})
    """Image files."""
    top: int = Field(default=5, ge=1, le=10**6)
    """Classes to name for each image."""


def predict_images(config: PredictConfig) -> dict[str, list[ClassProbability]]:
    """The most likely classes of the images that `config` names, by image.

    Raises:
        JackpotError: if there are no images, one cannot be read, or the artifact cannot be loaded.
    """
    if not config.images:
        raise ConfigError("no images: name at least one image file after the artifact")
    model = from_pretrained(
        config.artifact,
        base_checkpoint=config.base_checkpoint,
        revision=config.revision,
        trust_base=config.trust_base,
    )
    return dict(zip(config.images, predict(model, config.images, k=config.top), strict=True))


@torch.inference_mode()
def predict(
    model: nn.Module, images: Sequence[str | Path | Image.Image] | Tensor, *, k: int = 5
) -> list[list[ClassProbability]]:
    """The k most likely classes of each image, the most likely first.

    Args:
        model: a classifier, from `from_pretrained` or timm; each of its modules keeps its mode.
        images: paths or PIL images, to which the model's own evaluation transform is applied, or a transformed batch
            [b, c, h, w].

    Raises:
        ConfigError: if k is less than 1.
        DataError: if an image cannot be read.
    """
    if k < 1:
        raise ConfigError(f"k is {k}: ask for at least one class")
    names, device = class_names(model), next(model.parameters()).device
    if isinstance(images, Tensor):
        batches = iter(images.split(_BATCH))
    else:
        transform, parts = transform_of(model), range(0, len(images), _BATCH)
        batches = (torch.stack([transform(_open(image)) for image in images[i : i + _BATCH]]) for i in parts)
    answers: list[list[ClassProbability]] = []
    with eval_mode(model):
        for batch in batches:
            probabilities = model(batch.to(device)).float().softmax(1)
            values, indices = probabilities.topk(min(k, probabilities.shape[1]))
            for row in zip(indices.tolist(), values.tolist(), strict=True):
                answers.append([ClassProbability(i, names.get(i, f"class {i}"), p) for i, p in zip(*row, strict=True)])
    return answers


def class_names(model: nn.Module) -> dict[int, str]:
    """Names of a model's classes by index: those that an artifact or its checkpoint names, or ImageNet's; or none."""
    described = getattr(model, "pretrained_cfg", None) or {}
    labels = described.get("label_names")
    if isinstance(labels, dict):
        return {int(index): str(name) for index, name in labels.items()}
    if labels:
        return dict(enumerate(map(str, labels)))
    subset = infer_imagenet_subset(model)
    if subset is None:
        return {}
    info = ImageNetInfo(subset)
    return {index: info.index_to_description(index) for index in range(info.num_classes())}


def _open(image: str | Path | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it is not a readable image"
        raise DataError(f"{image} cannot be classified: {reason}") from error
