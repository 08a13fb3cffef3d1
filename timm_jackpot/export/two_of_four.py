"""Linear layers on a GPU's sparse tensor cores, which run weights with at most two of every four entries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from timm_jackpot.errors import ConfigError

_TILE = 64  # both sides of a weight are multiples of it
_CAPABILITY = (8, 0)


def check_gpu() -> None:
    """
    Raises:
        ConfigError: without sparse tensor cores.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < _CAPABILITY:
        raise ConfigError(
            "only NVIDIA GPUs of compute capability 8.0 and above run 2:4 weights faster, and this machine has none: "
            "export there, or choose another --format"
        )


def layers_with_two_of_four(network: nn.Module) -> list[str]:
    """The names of linear layers with at most two weights in every four along the inputs, and of sizes that run."""
    return [name for name, layer in network.named_modules() if type(layer) is nn.Linear and _fits(layer.weight)]


def on_sparse_cores(network: nn.Module, names: list[str]) -> nn.Module:
    """The network in float16 on the GPU, the named layers compressed; it is changed in place."""
    check_gpu()
    network = network.half().cuda().requires_grad_(False)
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
    return network


def _fits(weight: Tensor) -> bool:
    rows, columns = weight.shape
    return not rows % _TILE and not columns % _TILE and bool(weight.view(rows, -1, 4).ne(0).sum(-1).le(2).all())
