"""`digits_resnet`: timm's tiny `test_resnet` (last stage 80 wide instead of 96) with weights for handwritten digits.

The weights were made by this project's `pretrain` verb and `recipes/digits_pretrain.yaml`, on the training part
of scikit-learn's digits only (see `timm_jackpot.data.digits`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

WEIGHTS = Path(__file__).parent / "weights" / "digits_resnet.safetensors"

default_cfgs = generate_default_cfgs(
    {
        "digits_resnet.sklearn": {
            "file": str(WEIGHTS),
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": (1, 1),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "conv1.0",
            "classifier": "fc",
            "label_names": tuple("0123456789"),
            "license": "apache-2.0",
        }
    }
)


@register_model
def digits_resnet(pretrained: bool = False, width: float = 1, **kwargs: Any) -> nn.Module:
    """`width` multiplies channels, rounded; only 1 has weights."""
    arguments = {
        "block": [BasicBlock, BasicBlock, Bottleneck, BasicBlock],
        "layers": (1, 1, 1, 1),
        "stem_width": max(1, round(16 * width)),
        "stem_type": "deep",
        "avg_down": True,
        "channels": tuple(max(1, round(channels * width)) for channels in (32, 48, 48, 80)),
    }
    return build_model_with_cfg(ResNet, "digits_resnet", pretrained, **{**arguments, **kwargs})
