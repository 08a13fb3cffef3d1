"""Made-up pretrained weights, in the files that timm looks for on the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import save

Shapes = Iterator[tuple[str, tuple[int, ...]]]
WIDTHS = (64, 128, 256, 512)


def timm_resnet18(num_classes: int = 1000, seed: int = 0) -> dict[str, bytes]:
    """``model.safetensors`` and ``config.json`` of a ResNet-18 with random weights.

    ``create_model("resnet18.a1_in1k", pretrained=True)`` reads the weights alone and expects 1000 classes;
    ``create_model("hf-hub:...")`` also reads the number of classes.
    """
    generator = np.random.default_rng(seed)
    tensors = {name: _tensor(name, shape, generator) for name, shape in _shapes(num_classes)}
    config = json.dumps(_config(num_classes), indent=2)
    return {"model.safetensors": save(tensors), "config.json": config.encode()}


def _tensor(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.array(1, dtype=np.int64)
    values = generator.standard_normal(shape, dtype=np.float32) / np.float32(16)
    return np.abs(values) if name.endswith("running_var") else values


def _shapes(num_classes: int) -> Shapes:
    yield "conv1.weight", (64, 3, 7, 7)
    yield from _norm("bn1", 64)
    before = 64
    for stage, width in enumerate(WIDTHS, start=1):
        for block in range(2):
            yield from _block(f"layer{stage}.{block}", before, width)
            before = width
    yield "fc.weight", (num_classes, before)
    yield "fc.bias", (num_classes,)


def _block(name: str, before: int, width: int) -> Shapes:
    yield f"{name}.conv1.weight", (width, before, 3, 3)
    yield from _norm(f"{name}.bn1", width)
    yield f"{name}.conv2.weight", (width, width, 3, 3)
    yield from _norm(f"{name}.bn2", width)
    if before != width:
        yield f"{name}.downsample.0.weight", (width, before, 1, 1)
        yield from _norm(f"{name}.downsample.1", width)


def _norm(name: str, width: int) -> Shapes:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def _config(num_classes: int) -> dict[str, object]:
    pretrained = {
        "tag": "a1_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": num_classes,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
    }
    return {
        "architecture": "resnet18",
        "num_classes": num_classes,
        "num_features": 512,
        "pretrained_cfg": pretrained,
    }
