"""The papers' CIFAR networks as timm entries: `cifar_resnet20/32/44/56`, `…x2` (double width), `cifar_vgg19_bn`.

Tensor names are those of the published CIFAR ResNets (akamaster/pytorch_resnet_cifar10), so that their
checkpoints load as they are. No weights are bundled: `--base-checkpoint`, or the `pretrain` verb.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

_STAGES = (16, 32, 64)
_VGG19 = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512)


class _BasicBlock(nn.Module):
    """Two 3×3 convs; where the shape changes, the shortcut is option A of He et al. 2016, without parameters."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.new_planes = planes - in_planes

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.new_planes == 0:
            return x
        low = self.new_planes // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, low, self.new_planes - low))


class _CifarNet(nn.Module):
    """Base class of the CIFAR networks: a linear layer after global average pooling, with timm's head interface."""

    num_features: int
    linear: nn.Module

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def get_classifier(self) -> nn.Module:
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.linear = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.linear(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class CifarResNet(_CifarNet):
    """ResNet-6n+2 for 32×32 images (He et al. 2016, Sec. 4.2). `width` multiplies channels, rounded."""

    def __init__(self, blocks: int = 3, width: float = 1, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        planes = [max(1, round(p * width)) for p in _STAGES]
        self.conv1 = nn.Conv2d(in_chans, planes[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.layer1 = self._stage(planes[0], planes[0], blocks, 1)
        self.layer2 = self._stage(planes[0], planes[1], blocks, 2)
        self.layer3 = self._stage(planes[1], planes[2], blocks, 2)
        self.num_features = planes[2]
        self.reset_classifier(num_classes)
        self._init_weights()

    @staticmethod
    def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        layers = [_BasicBlock(in_planes, planes, stride)]
        return nn.Sequential(*layers, *(_BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))

    def forward_features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


class CifarVgg(_CifarNet):
    """VGG-19 with batch norm for 32×32 images: sixteen convs, four poolings, one linear layer.

    `width` multiplies channels, rounded.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, width: float = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for planes in _VGG19:
            if isinstance(planes, str):
                layers.append(nn.MaxPool2d(2, 2))
            else:
                channels = max(1, round(planes * width))
                layers += [
                    nn.Conv2d(in_chans, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
                in_chans = channels
        self.feature = nn.Sequential(*layers)
        self.num_features = in_chans
        self.reset_classifier(num_classes)
        self._init_weights()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.feature(x)


def _cfg(first_conv: str) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": first_conv,
        "classifier": "linear",
    }


_DEPTHS = {20: 3, 32: 5, 44: 7, 56: 9}
_RESNETS = {
    f"cifar_resnet{depth}" + ("x2" if width == 2 else ""): {"blocks": blocks, "width": width}
    for depth, blocks in _DEPTHS.items()
    for width in (1, 2)
}

_cfgs: dict[str, Any] = {name: _cfg("conv1") for name in _RESNETS} | {"cifar_vgg19_bn": _cfg("feature.0")}
default_cfgs = generate_default_cfgs(_cfgs)


def _register_resnet(name: str) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(CifarResNet, name, pretrained, **{**_RESNETS[name], **kwargs})

    entry.__name__ = name
    entry.__module__ = __name__  # timm looks here for `default_cfgs`
    globals()[name] = register_model(entry)


for _name in _RESNETS:
    _register_resnet(_name)


@register_model
def cifar_vgg19_bn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(CifarVgg, "cifar_vgg19_bn", pretrained, **kwargs)
