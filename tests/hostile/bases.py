"""What good artifacts are loaded on, and the other bases that they must be refused on."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def odd_module() -> Any:
    """A module of its author's own, with masks that leave spare bits."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 5, 1)]
    return torch.nn.Sequential(*layers).eval()


def arguments(root: Path, base: str | None) -> dict[str, Any]:
    """Further arguments of `from_pretrained` for a good artifact, or for another base."""
    if base in ("vit", "other architecture"):
        return {"base_checkpoint": root / "vit.safetensors"}
    if base == "other weights":
        return {"base_checkpoint": root / "other.safetensors"}
    if base in ("odd", "odd module"):
        return {"base": odd_module()}
    if base in ("other module", "module with one weight changed"):
        return {"base": _changed_module(only_one=base != "other module")}
    return {}


def _changed_module(*, only_one: bool) -> Any:
    import torch

    from timm_jackpot.base import load_base

    model: Any = load_base("digits_resnet").model
    with torch.no_grad():
        for parameter in [model.layer3[0].conv3.weight[0, 0, 0]] if only_one else model.parameters():
            parameter.mul_(1.5)
    return model
