"""Formats that torch opens: a timm checkpoint; without dead channels; with sparse rows; for sparse tensor cores."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from timm.models import adapt_model_from_string, is_model_in_modules
from torch import Tensor, nn

from timm_jackpot.artifact import timm_checkpoint
from timm_jackpot.errors import ConfigError
from timm_jackpot.export.csr import to_sparse_rows
from timm_jackpot.export.load import SPARSE_LAYERS, load_exported
from timm_jackpot.export.registry import Exported, Run, register_format
from timm_jackpot.export.shrink import WIDTHS, shrink
from timm_jackpot.export.two_of_four import check_gpu, layers_with_two_of_four
from timm_jackpot.networks import OUR_MODULES

_TORCH = f"torch {torch.__version__}"
_LINE = 'timm_jackpot.load_exported("FOLDER")'
_WEIGHTS, PRUNED = "model.safetensors", "pruned.txt"


@register_format("dense")
def dense(network: nn.Module, images: Tensor) -> Exported:
    """A plain timm checkpoint, zeros for removed weights: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""
    return Exported(timm_checkpoint(network), _open_in_timm, _TORCH, _timm_line(network))


@register_format("shrunk", packages=("torch_pruning",))
def shrunk(network: nn.Module, images: Tensor) -> Exported:
    """A checkpoint without the channels that the mask made dead; where timm can read that, with its widths in timm's
    form for pruned networks, so that timm alone opens it (`adapt_model_from_string`)."""
    small, shrinkage = shrink(network, images, multiple=WIDTHS)
    whole = timm_checkpoint(network)
    files, widths = _with_weights_of(small, whole), _widths(small)
    if readable := _timm_adapts(network, widths, small, images):
        files[PRUNED] = widths.encode()
    notes = {**shrinkage.notes, "timm_alone_opens_it": readable}
    return Exported(files, _open, _TORCH, _LINE, notes, whole if shrinkage.removed else None)


@register_format("sparse-csr")
def sparse_csr(network: nn.Module, images: Tensor) -> Exported:
    """A checkpoint whose linear layers and 1×1 convolutions hold compressed sparse rows, where few weights are left.

    Raises:
        ConfigError: if no layer is that sparse.
    """
    sparse, names = to_sparse_rows(network, images)
    if not names:
        raise ConfigError(
            "no linear layer or 1×1 convolution of this network has 15 % of its weights or fewer, below which sparse "
            "rows can be faster: nothing was written"
        )
    whole = timm_checkpoint(network)
    return Exported(_with_weights_of(sparse, whole), _open, _TORCH, _LINE, {"sparse_layers": names}, whole)


@register_format("2:4")
def two_of_four(network: nn.Module, images: Tensor) -> Exported:
    """A checkpoint that opens on a GPU in float16, linear layers with two weights of every four on sparse tensor cores.

    Raises:
        ConfigError: without such a GPU, or if no layer is of that pattern.
    """
    check_gpu()
    names = layers_with_two_of_four(network)
    if not names:
        raise ConfigError(
            "no linear layer of this network has two weights of every four: search with --allocation 2:4, or choose "
            "another --format"
        )
    whole = timm_checkpoint(network)
    files, plain = ({**whole, SPARSE_LAYERS: json.dumps(listed).encode()} for listed in (names, []))
    return Exported(files, _open, _TORCH, _LINE, {"sparse_layers": names}, plain, bound=1e-2)


def _with_weights_of(changed: nn.Module, whole: dict[str, bytes]) -> dict[str, bytes]:
    """config.json describes the whole architecture; what layers have become is read off the tensors."""
    return {**whole, _WEIGHTS: timm_checkpoint(changed)[_WEIGHTS]}


def _widths(network: nn.Module) -> str:
    shapes = {name: ",".join(map(str, tensor.shape)) for name, tensor in network.state_dict().items()}
    return "***".join(f"{name}:[{shape}]" for name, shape in shapes.items())


def _timm_adapts(network: nn.Module, widths: str, small: nn.Module, images: Tensor) -> bool:
    """Whether timm builds the small network from the whole one and its widths."""
    try:
        adapted = adapt_model_from_string(network, widths).eval()
        adapted.load_state_dict(small.state_dict())
        return bool(torch.equal(adapted(images), small(images)))
    except Exception:  # it knows few layers, and takes every grouped convolution for a depthwise one
        return False


def _open_in_timm(folder: Path) -> Run:
    return _eager(timm.create_model(f"local-dir:{folder}", pretrained=True).eval())


def _timm_line(network: nn.Module) -> str:
    ours = is_model_in_modules(network.pretrained_cfg["architecture"], OUR_MODULES)  # pyright: ignore
    return f'{"import timm_jackpot.networks; " * ours}timm.create_model("local-dir:FOLDER", pretrained=True)'


def _open(folder: Path) -> Run:
    return _eager(load_exported(folder))


def _eager(network: nn.Module) -> Run:
    weight = next(network.parameters())

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return network(images.to(weight)).float().cpu()

    return run
