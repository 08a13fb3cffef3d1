"""Formats that torch opens: a timm checkpoint; without dead channels; with sparse rows; for sparse tensor cores."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from timm.models import is_model_in_modules
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
_WEIGHTS = "model.safetensors"


@register_format("dense")
def dense(network: nn.Module, images: Tensor) -> Exported:
    """A plain timm checkpoint, zeros for removed weights: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""
    return Exported(timm_checkpoint(network), _open_in_timm, _TORCH, _timm_line(network))


@register_format("shrunk", packages=("torch_pruning",))
def shrunk(network: nn.Module, images: Tensor) -> Exported:
    """A checkpoint without the channels that the mask made dead."""
    small, shrinkage = shrink(network, images, multiple=WIDTHS)
    whole = timm_checkpoint(network)
    return Exported(
        _with_weights_of(small, whole),
        _open,
        _TORCH,
        _LINE,
        shrinkage.notes,
        whole if shrinkage.removed else None,
    )


@register_format("sparse-csr")
def sparse_csr(network: nn.Module, images: Tensor) -> Exported:
    """A checkpoint whose linear layers and 1×1 convolutions hold compressed sparse rows, where few weights are left.

    Raises:
        ConfigError: if no layer is that sparse.
    """
    sparse, names = to_sparse_rows(network)
    if not names:
        raise ConfigError(
            "no linear layer or 1×1 convolution of this network has 15 % of its weights or fewer, below which sparse "
            "rows are faster: nothing was written"
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
