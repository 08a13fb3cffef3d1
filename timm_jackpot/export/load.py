"""Open an exported checkpoint: timm builds the architecture, the file says how wide and how sparse its layers are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm import create_model
from torch import Tensor, nn

import timm_jackpot.networks  # noqa: F401  (registers our architectures with timm)
from timm_jackpot.errors import ArtifactError
from timm_jackpot.export.csr import SparseRows, sparse_layer
from timm_jackpot.export.two_of_four import on_sparse_cores

SPARSE_LAYERS = "sparse_layers.json"  # names, of the format 2:4


def load_exported(folder: str | Path) -> nn.Module:
    """The network in a folder that `timm-jackpot export` wrote as dense, shrunk, sparse-csr or 2:4, in eval mode. With
    2:4 it is on the GPU, in float16.

    Raises:
        ArtifactError: if the folder does not hold one.
        ConfigError: for 2:4 without a GPU that runs it.
    """
    try:
        state = load_file(Path(folder, "model.safetensors"))
        listed = Path(folder, SPARSE_LAYERS)
        names = json.loads(listed.read_bytes()) if listed.exists() else None
        model = create_model(f"local-dir:{folder}", pretrained=False)
        for name, module in list(model.named_modules()):
            tensors = _tensors_of(module, name, state)
            if (values := state.get(f"{name}.values")) is not None:
                sparse = sparse_layer(module, len(values))
                assert sparse is not None, f"{name} is no layer that can be sparse"
                for key, tensor in sparse.named_buffers():  # loading would convert them, and wrap what is too large
                    assert state[f"{name}.{key}"].dtype == tensor.dtype, f"{name}.{key} is not {tensor.dtype}"
                model.set_submodule(name, sparse)
            elif any(getattr(module, key).shape != value.shape for key, value in tensors.items()):
                _resize(module, tensors)
        model.load_state_dict(state)
        for module in model.modules():
            if isinstance(module, SparseRows):
                module.matrix(check=True)  # once: a product with rows that lie would read memory that is not theirs
        assert names is None or all(isinstance(model.get_submodule(name), nn.Linear) for name in names)
    except Exception as error:  # a damaged folder makes timm and torch raise all kinds of errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise ArtifactError(f"{folder} does not hold an exported network: {reason[:300]}") from error
    head = model.get_classifier()  # pyright: ignore
    if isinstance(head, nn.Linear):
        vars(model)["num_features"] = head.in_features  # for a new head
    return model.eval() if names is None else on_sparse_cores(model.eval(), names)


def _tensors_of(module: nn.Module, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = [*module._parameters, *module._buffers]
    return {key: state[f"{name}.{key}"] for key in own if f"{name}.{key}" in state}


def _resize(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a layer room for tensors of other widths, and tell it its widths."""
    if isinstance(module, nn.Conv2d):
        made, read = tensors["weight"].shape[:2]
        if module.groups > 1:
            assert read == 1, "a grouped convolution that is not depthwise has other widths"
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
