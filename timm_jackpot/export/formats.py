"""The formats: a plain timm checkpoint, the same without dead channels, and ONNX."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn

from timm_jackpot.artifact import timm_checkpoint
from timm_jackpot.errors import ConfigError, first_line
from timm_jackpot.export.load import load_shrunk
from timm_jackpot.export.registry import Exported, Run, register_format
from timm_jackpot.export.shrink import Shrinkage, shrink
from timm_jackpot.networks import OUR_MODULES

if TYPE_CHECKING:
    from collections.abc import Iterator

_TORCH = f"torch {torch.__version__}"
_OPSET = 20
# Kernels work on blocks of channels: with 13 channels fewer, ResNet-20 takes 1.2 times as long in onnxruntime.
_WIDTHS = 8


@register_format("dense")
def dense(network: nn.Module, images: Tensor) -> Exported:
    """A plain timm checkpoint, zeros for removed weights: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""
    return Exported(timm_checkpoint(network), _open_dense, _TORCH, _timm_line(network))


@register_format("shrunk", packages=("torch_pruning",))
def shrunk(network: nn.Module, images: Tensor) -> Exported:
    """A checkpoint without the channels that the mask made dead; `load_shrunk(FOLDER)` opens it."""
    small, shrinkage = shrink(network, images, multiple=_WIDTHS)
    # config.json describes the whole architecture; the widths are those of the tensors.
    whole = timm_checkpoint(network)
    files = {**whole, "model.safetensors": timm_checkpoint(small)["model.safetensors"]}
    return Exported(
        files,
        _open_shrunk,
        _TORCH,
        'timm_jackpot.load_shrunk("FOLDER")',
        _notes(shrinkage),
        whole if shrinkage.removed else None,
    )


@register_format("onnx", packages=("onnx", "onnxscript", "onnxruntime", "torch_pruning"))
def onnx(network: nn.Module, images: Tensor) -> Exported:
    """The network as model.onnx, with a dynamic batch; shrunk where that is possible, else with zeros."""
    import onnxruntime

    try:
        small, shrinkage = shrink(network, images, multiple=_WIDTHS)
        notes = _notes(shrinkage)
    except ConfigError as error:
        small, notes = network, {"not_shrunk": str(error)}
    return Exported(
        _onnx_file(small, images),
        _open_onnx,
        f"onnxruntime {onnxruntime.__version__}",
        'onnxruntime.InferenceSession("FOLDER/model.onnx")',
        {"opset": _OPSET, **notes},
        _onnx_file(network, images) if notes.get("removed_channels") else None,
    )


def _onnx_file(network: nn.Module, images: Tensor) -> dict[str, bytes]:
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                network,
                (images[:2],),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                input_names=["images"],
                output_names=["logits"],
                opset_version=_OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises all kinds of errors
        raise ConfigError(f"torch cannot export this network to ONNX: {first_line(error)}") from error
    assert program is not None
    return {"model.onnx": program.model_proto.SerializeToString()}


def _open_dense(folder: Path) -> Run:
    return _eager(timm.create_model(f"local-dir:{folder}", pretrained=True).eval())


def _timm_line(network: nn.Module) -> str:
    ours = is_model_in_modules(network.pretrained_cfg["architecture"], OUR_MODULES)  # pyright: ignore
    return f'{"import timm_jackpot.networks; " * ours}timm.create_model("local-dir:FOLDER", pretrained=True)'


def _open_shrunk(folder: Path) -> Run:
    return _eager(load_shrunk(folder))


def _open_onnx(folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return run


def _eager(network: nn.Module) -> Run:
    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return network(images)

    return run


def _notes(shrinkage: Shrinkage) -> dict[str, object]:
    return {"removed_channels": shrinkage.removed, "dead_but_left": shrinkage.left}


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
