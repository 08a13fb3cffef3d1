"""Export a jackpot: write it in a format, open what was written, compare it, time it, and say what it gives."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from timm_jackpot.artifact import ArtifactFlags, from_pretrained, replace_folder, timm_checkpoint
from timm_jackpot.data import DataFlags, default_data_notice, open_split
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.export.measure import Latency, difference, latencies, processor, sizes
from timm_jackpot.export.registry import format_names, writer_of
from timm_jackpot.runtime.processes import Shard, make_accelerator, say
from timm_jackpot.schema import Command, OneOf

_BOUND = 1e-4  # of the largest logit
_NOISE = 16  # images
_NOTHING_REMOVED = "none: nothing was removed, and zeros are multiplied like other numbers"


class ExportConfig(ArtifactFlags, DataFlags):
    """Write a jackpot for use elsewhere, check that it gives the same logits, and measure its size and speed."""

    group: ClassVar[str] = "Export"
    command: ClassVar[Command | None] = Command(
        "export",
        (
            "my_jackpot exported",
            "my_jackpot exported --format onnx",
            "user/name exported --format shrunk --images 0    # judged on noise",
        ),
        basic=("artifact", "folder", "format", "images", "dataset", "data_dir", "base_checkpoint"),
    )

    folder: str = Field(json_schema_extra={"positional": True})
    """A new or empty folder."""
    format: Annotated[str, OneOf(format_names)] = "dense"
    """dense: a plain timm checkpoint, zeros for removed weights. shrunk: without the channels that the mask made dead.
    onnx: the shrunk network, for onnxruntime."""
    images: int = Field(default=64, ge=0, le=10**6)
    """Test images on which logits are compared; 0: noise, which needs no data."""


def export_artifact(config: ExportConfig) -> dict[str, Any]:
    """Export an artifact as its flags say; returns what export.json says.

    Raises:
        JackpotError: as `from_pretrained`, `open_split` and `export_jackpot`.
    """
    _new_folder(config.folder)
    writer_of(config.format)  # before anything is loaded
    model = from_pretrained(
        config.artifact,
        base_checkpoint=config.base_checkpoint,
        revision=config.revision,
        trust_base=config.trust_base,
    )
    images = None
    if config.images:
        say(default_data_notice(config, model), make_accelerator(seed=0))
        split = open_split(config, None, model, device=torch.device("cpu"))
        images = next(split.eval_batches(batch_size=min(config.images, len(split)), shard=Shard())).images
    return export_jackpot(model, config.folder, format=config.format, images=images)


def export_jackpot(
    model: nn.Module,
    folder: str | Path,
    *,
    format: str = "dense",  # noqa: A002
    images: Tensor | None = None,
) -> dict[str, Any]:
    """Write a network with zeros in it, such as `from_pretrained` returns, in a format.

    The files are opened again as a user would, and nothing is left behind if their logits differ from the model's by
    more than 1e-4 times the largest absolute logit. They are timed alternately with the model itself in torch, on
    as many threads.

    Args:
        model: a timm model; it is not changed.
        folder: a new or empty folder.
        format: one of `format_names()`.
        images: [b, c, h, w], transformed as the model expects them, to compare logits on. Default: noise.

    Returns:
        What export.json says: the largest difference, sizes in bytes, milliseconds of batches of 1 and 32 images as
        quartiles over pairs of runs, and in a sentence each, the speedup over torch and the mask's share in it.

    Raises:
        ConfigError: for an unknown format or a missing package, if the format cannot hold the network, or if the logits
            differ.
        ArtifactError: if the folder is not empty or cannot be written.
    """
    target, write = _new_folder(folder), writer_of(format)
    if not (hasattr(model, "pretrained_cfg") and hasattr(model, "num_classes")):
        raise ConfigError(f"{type(model).__name__} is not a timm classifier: give one, such as from_pretrained returns")
    network = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    compared_on = "noise" if images is None else "given images"
    if images is None:
        size = resolve_model_data_config(network)["input_size"]
        images = torch.randn(_NOISE, *size, generator=torch.Generator().manual_seed(0))
    images = images.cpu().float()
    wanted = _logits(network, images)
    exported = write(network, images)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        run = exported.open(_written(exported.files, Path(scratch, "exported")))
        largest, relative = difference(wanted, run(images))
        if not relative <= _BOUND:
            raise ConfigError(
                f"as {format} the network gives other logits, by up to {relative:.1g} of the largest one: nothing was "
                "written, choose another --format"
            )
        timed, by_mask = latencies(network, run, images), []
        if exported.whole is not None:
            by_mask = latencies(exported.open(_written(exported.whole, Path(scratch, "whole"))), run, images)
    described = {
        "format": format,
        "runtime": exported.runtime,
        "open_with": exported.line,
        "compared_on": compared_on,
        "images": len(images),
        "largest_difference": largest,
        "relative_difference": relative,
        "bytes_before": sizes(timm_checkpoint(network)),  # float32
        "bytes_after": sizes(exported.files),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "beside_torch": [asdict(one) for one in timed],
        "beside_whole": [asdict(one) for one in by_mask],
        "speed": f"beside the masked network in torch {torch.__version__}: {_sentences(timed)}",
        "speed_by_mask": _sentences(by_mask) or _NOTHING_REMOVED,
        **exported.notes,
    }
    text = json.dumps(described, indent=1, allow_nan=False) + "\n"
    replace_folder(target, {**exported.files, "export.json": text.encode()})
    return {"folder": str(target), **described}


@torch.inference_mode()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    try:
        logits = network(images)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the network does not take images of shape {[*images.shape]}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not len(logits):
        raise ConfigError("an export needs at least one image, and a network that gives logits [b, classes]")
    if not bool(logits.isfinite().all()):
        raise ConfigError("the network gives logits that are not finite: check its weights and the images")
    return logits


def _written(files: Mapping[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _sentences(timed: Sequence[Latency]) -> str:
    return ", ".join(one.sentence() for one in timed)


def _new_folder(folder: str | Path) -> Path:
    try:
        target = Path(folder).resolve()
        free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{str(folder)[:100]!r} cannot be a folder: {error}") from error
    if not free:
        raise ArtifactError(f"{folder} is not an empty folder: name a new one")
    return target
