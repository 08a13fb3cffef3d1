"""Formats for runtimes other than torch: ONNX, OpenVINO and Core ML."""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from timm_jackpot.errors import ConfigError, first_line
from timm_jackpot.export.registry import Exported, Run, register_format
from timm_jackpot.export.shrink import WIDTHS, shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_OPSET = 20
_MOST = 64  # images in a batch, for Core ML, which wants a bound
_ONNX = ("onnx", "onnxscript", "torch_pruning")


@register_format("onnx", packages=(*_ONNX, "onnxruntime"))
def onnx(network: nn.Module, images: Tensor) -> Exported:
    """The network as model.onnx, with a dynamic batch; shrunk where that is possible, else with zeros."""
    import onnxruntime

    line = 'onnxruntime.InferenceSession("FOLDER/model.onnx")'
    return _small_and_whole(network, images, _onnx_file, _open_onnx, f"onnxruntime {onnxruntime.__version__}", line)


@register_format("openvino", packages=(*_ONNX, "openvino"), extra="openvino")
def openvino(network: nn.Module, images: Tensor) -> Exported:
    """The same network as OpenVINO's model.xml and model.bin, float32."""
    from openvino import get_version

    version, line = get_version().partition("-")[0], 'openvino.Core().compile_model("FOLDER/model.xml", "CPU")'
    return _small_and_whole(network, images, _openvino_files, _open_openvino, f"openvino {version}", line)


@register_format("coreml", packages=("coremltools", "torch_pruning"), extra="coreml")
def coreml(network: nn.Module, images: Tensor) -> Exported:
    """The same network as model.mlpackage, float32, for iOS 16 and macOS 13, in batches of up to 64 images. Of a sparse
    weight it stores a bit for each entry, and those that are not zero."""
    with _quiet():
        import coremltools
        from coremltools.optimize.coreml import OpThresholdPrunerConfig, OptimizationConfig, prune_weights

    small, notes = _smallest(network, images)
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    try:
        with _quiet(), torch.inference_mode(False):
            program = torch.export.export(small, (torch.cat([images, images])[:2],), dynamic_shapes=({0: batch},))
            model = coremltools.convert(
                program.run_decompositions({}),
                outputs=[coremltools.TensorType(name="logits")],
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=coremltools.precision.FLOAT32,
            )
            assert isinstance(model, coremltools.models.MLModel)
            # Below the smallest float32, so that only zeros go; a tensor with few of them stays as it is.
            zeros = OpThresholdPrunerConfig(threshold=1e-45, minimum_sparsity_percentile=0.1)
            sparse = prune_weights(model, OptimizationConfig(global_config=zeros))
            assert isinstance(sparse, coremltools.models.MLModel)
    except Exception as error:  # both packages raise all kinds of errors
        raise ConfigError(f"this network cannot be converted to Core ML: {first_line(error)}") from error
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        sparse.save(str(Path(scratch, "model.mlpackage")))
        files = {p.relative_to(scratch).as_posix(): p.read_bytes() for p in Path(scratch).rglob("*") if p.is_file()}
    return Exported(
        files,
        _open_coreml if sys.platform == "darwin" else "Core ML runs on macOS only",
        f"coremltools {coremltools.__version__}",
        'coremltools.models.MLModel("FOLDER/model.mlpackage")',
        notes,
    )


def _small_and_whole(
    network: nn.Module,
    images: Tensor,
    write: Callable[[nn.Module, Tensor], dict[str, bytes]],
    open_: Callable[[Path], Run],
    runtime: str,
    line: str,
) -> Exported:
    """The shrunk network, and the whole one if that is another."""
    small, notes = _smallest(network, images)
    whole = write(network, images) if notes.get("removed_channels") else None
    return Exported(write(small, images), open_, runtime, line, {"opset": _OPSET, **notes}, whole)


def _smallest(network: nn.Module, images: Tensor) -> tuple[nn.Module, Mapping[str, object]]:
    try:
        small, shrinkage = shrink(network, images, multiple=WIDTHS)
    except ConfigError as error:
        return network, {"not_shrunk": str(error)}
    return small, shrinkage.notes


def _onnx_file(network: nn.Module, images: Tensor) -> dict[str, bytes]:
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
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


def _open_onnx(folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return run


def _openvino_files(network: nn.Module, images: Tensor) -> dict[str, bytes]:
    from openvino import Core, save_model

    model = Core().read_model(_onnx_file(network, images)["model.onnx"])
    with tempfile.TemporaryDirectory() as scratch:
        save_model(model, Path(scratch, "model.xml"), compress_to_fp16=False)
        return {path.name: path.read_bytes() for path in Path(scratch).iterdir()}


def _open_openvino(folder: Path) -> Run:
    from openvino import Core

    # By default it may compute in 16 bits where the processor can.
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    model = Core().compile_model(folder / "model.xml", "CPU", options)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(model(images.numpy())[0].copy())

    return run


def _open_coreml(folder: Path) -> Run:
    import coremltools

    units = coremltools.ComputeUnit.CPU_ONLY  # others compute in 16 bits
    model = coremltools.models.MLModel(str(folder / "model.mlpackage"), compute_units=units)
    name = model.get_spec().description.input[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(model.predict({name: images.numpy()})["logits"])

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters report their stages, and versions of other packages, by every way there is."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
