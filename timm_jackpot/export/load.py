"""Open a shrunk network: timm builds the architecture, the file says how wide its layers are."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from timm import create_model
from torch import Tensor, nn

import timm_jackpot.networks  # noqa: F401  (registers our architectures with timm)
from timm_jackpot.errors import ArtifactError


def load_shrunk(folder: str | Path) -> nn.Module:
    """The network in a folder that `timm-jackpot export --format shrunk` wrote, in eval mode.

    Raises:
        ArtifactError: if the folder does not hold one.
    """
    try:
        state = load_file(Path(folder) / "model.safetensors")
        model = create_model(f"local-dir:{folder}", pretrained=False)
        for name, module in model.named_modules():
            _resize(module, {key: state[f"{name}.{key}"] for key in _own(module) if f"{name}.{key}" in state})
        model.load_state_dict(state)
    except Exception as error:  # a damaged folder makes timm and torch raise all kinds of errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ArtifactError(f"{folder} does not hold a shrunk network: {reason[:300]}") from error
    head = model.get_classifier()  # pyright: ignore
    if isinstance(head, nn.Linear):
        vars(model)["num_features"] = head.in_features  # for a new head
    return model.eval()


def _own(module: nn.Module) -> list[str]:
    return [*module._parameters, *module._buffers]


def _resize(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a layer room for tensors of other widths, and tell it its widths."""
    if all(getattr(module, key).shape == value.shape for key, value in tensors.items()):
        return
    if isinstance(module, nn.Conv2d):
        made, read = tensors["weight"].shape[:2]
        if module.groups > 1:  # one filter for each channel
            module.groups, read = made, made
        module.out_channels, module.in_channels = made, read
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = tensors["weight"].shape
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        module.num_features = len(tensors["running_mean"])
    else:
        return  # no layer that shrinks: loading the tensors will say what does not fit
    for key, value in tensors.items():
        empty = torch.empty_like(value)
        setattr(module, key, nn.Parameter(empty) if key in module._parameters else empty)
