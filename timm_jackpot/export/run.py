"""Export a jackpot: write it in a format, open what was written, compare it, time it, and say what it gives."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from timm_jackpot.artifact import (
    ArtifactFlags,
    from_pretrained,
    locate_artifact,
    read_config,
    replace_folder,
    timm_checkpoint,
)
from timm_jackpot.data import DataFlags, default_data_notice, open_split
from timm_jackpot.errors import ArtifactError, ConfigError, first_line
from timm_jackpot.evidence import EXPORT, EXPORTS, ExportReport, Latency, plain_text
from timm_jackpot.export.measure import difference, latencies, processor, sizes
from timm_jackpot.export.registry import Exported, format_names, writer_of
from timm_jackpot.runtime.processes import Shard, make_accelerator, say
from timm_jackpot.schema import Command, OneOf

_NOISE = 16  # images
_NOTHING_REMOVED = "none: nothing was removed, and zeros are multiplied like other numbers"


class ExportConfig(ArtifactFlags, DataFlags):
    """Write a jackpot for use elsewhere, check that it gives the same logits, and measure its size and speed."""

    group: ClassVar[str] = "Export"
    command: ClassVar[Command | None] = Command(
        "export",
        (
            "my_jackpot    # into my_jackpot/exports/dense",
            "my_jackpot served --format onnx",
            "user/name small --format shrunk --images 0    # judged on noise",
        ),
        basic=("artifact", "folder", "format", "images", "dataset", "data_dir", "base_checkpoint"),
    )

    folder: str | None = Field(default=None, json_schema_extra={"positional": True})
    """A new or empty folder. Default: exports/FORMAT in the artifact's own; a push puts its figures on the card."""
    format: Annotated[str, OneOf(format_names)] = "dense"
    """dense: a plain timm checkpoint, zeros for removed weights. shrunk: without the channels that the mask made dead.
    sparse-csr: sparse rows for linear layers and 1×1 convolutions, faster on a CPU from 95 % or so. 2:4: float16 on a
    GPU's sparse tensor cores. onnx, openvino, coreml: the shrunk network for these runtimes."""
    images: int = Field(default=64, ge=0, le=1024)
    """Test images on which logits are compared, in one batch; 0: noise, which needs no data."""


def export_artifact(config: ExportConfig) -> dict[str, Any]:
    """Export an artifact as its flags say; returns what export.json says.

    Raises:
        JackpotError: as `from_pretrained`, `open_split` and `export_jackpot`.
    """
    folder = _new_folder(config.folder or _own_folder(config))
    writer_of(config.format)  # before anything is loaded
    model = from_pretrained(
        config.artifact,
        base_checkpoint=config.base_checkpoint,
        revision=config.revision,
        trust_base=config.trust_base,
    )
    images, compared_on = None, "noise"
    if config.images:
        say(default_data_notice(config, model), make_accelerator(seed=0))
        split = open_split(config, None, model, device=torch.device("cpu"))
        images = next(split.eval_batches(batch_size=min(config.images, len(split)), shard=Shard())).images
        compared_on = "test images"
    mask_hash = read_config(locate_artifact(config.artifact, revision=config.revision)).mask_hash
    return _export(model, folder, config.format, images, compared_on, mask_hash)


def export_jackpot(
    model: nn.Module,
    folder: str | Path,
    *,
    format: str = "dense",  # noqa: A002
    images: Tensor | None = None,
) -> dict[str, Any]:
    """Write a network with zeros in it, such as `from_pretrained` returns, in a format.

    The files are opened again as a user would, and nothing is left behind if their logits differ from the model's by
    more than 1e-4 times the largest absolute logit (1e-2 for 2:4, which computes in float16). They are timed
    alternately with the model itself in torch, on as many threads. A format that does not run on this machine is
    written unseen, and says so.

    Args:
        model: a timm model; it is not changed.
        folder: a new or empty folder.
        format: one of `format_names()`.
        images: [b, c, h, w], transformed as the model expects them, to compare logits on. Default: noise.

    Returns:
        What export.json says (`ExportReport`): the largest difference, sizes in bytes, milliseconds of batches of 1 and
        32 images as quartiles over pairs of runs, and in a sentence each, the speedup over torch and the mask's share.

    Raises:
        ConfigError: for an unknown format or a missing package, if the format cannot hold the network, or if the logits
            differ.
        ArtifactError: if the folder is not empty or cannot be written.
    """
    compared_on = "noise" if images is None else "given images"
    return _export(model, _new_folder(folder), format, images, compared_on, None)


def _export(
    model: nn.Module,
    folder: Path,
    name: str,
    images: Tensor | None,
    compared_on: str,
    mask_hash: str | None,
) -> dict[str, Any]:
    write = writer_of(name)
    if not (hasattr(model, "pretrained_cfg") and hasattr(model, "num_classes")):
        raise ConfigError(f"{type(model).__name__} is not a timm classifier: give one, such as from_pretrained returns")
    network = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    if images is None:
        size = resolve_model_data_config(network)["input_size"]
        images = torch.randn(_NOISE, *size, generator=torch.Generator().manual_seed(0))
    images = images.cpu().float()
    wanted = _logits(network, images)
    exported = write(network, images)
    report = ExportReport(
        format=name,
        mask_hash=mask_hash,
        runtime=exported.runtime,
        open_with=exported.line,
        compared_on=f"nothing: {exported.open}" if isinstance(exported.open, str) else compared_on,
        images=0 if isinstance(exported.open, str) else len(images),
        bytes_before=sizes(timm_checkpoint(network)),  # float32
        bytes_after=sizes(exported.files),
        processor=plain_text(processor()),
        threads=torch.get_num_threads(),
        notes=dict(exported.notes),
        **_run(exported, name, network, images, wanted),
    )
    text = report.model_dump_json(indent=1) + "\n"
    replace_folder(folder, {**exported.files, EXPORT: text.encode()})
    return {"folder": str(folder), **report.model_dump(mode="json")}


def _run(exported: Exported, name: str, network: nn.Module, images: Tensor, wanted: Tensor) -> dict[str, Any]:
    """What is only known of a format that runs here.

    Raises:
        ConfigError: if its logits are not those wanted.
    """
    if isinstance(exported.open, str):
        unknown = f"not measured: {exported.open}"
        figures = dict.fromkeys(("largest_difference", "relative_difference"))
        return {**figures, "beside_torch": (), "beside_whole": (), "speed": unknown, "speed_by_mask": unknown}
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        run = exported.open(_written(exported.files, Path(scratch, "exported")))
        largest, relative = difference(wanted, run(images))
        if not relative <= exported.bound:
            raise ConfigError(
                f"as {name} the network gives other logits, by up to {relative:.1g} of the largest one: nothing was "
                "written, choose another --format"
            )
        timed, by_mask = latencies(network, run, images), ()
        if exported.whole is not None:
            by_mask = latencies(exported.open(_written(exported.whole, Path(scratch, "whole"))), run, images)
    return {
        "largest_difference": largest,
        "relative_difference": relative,
        "beside_torch": timed,
        "beside_whole": by_mask,
        "speed": f"beside the masked network in torch {torch.__version__}: {_sentence(timed)}",
        "speed_by_mask": _sentence(by_mask) or _NOTHING_REMOVED,
    }


@torch.inference_mode()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    try:
        logits = network(images)
    except Exception as error:  # networks raise all kinds of errors
        raise ConfigError(
            f"the network does not take images of shape {[*images.shape]}: {first_line(error)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not len(logits):
        raise ConfigError("an export needs at least one image, and a network that gives logits [b, classes]")
    if not bool(logits.isfinite().all()):
        raise ConfigError("the network gives logits that are not finite: check its weights and the images")
    return logits


def _written(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _sentence(timed: Sequence[Latency]) -> str:
    return ", ".join(f"{one.in_words} at batch {one.batch}" for one in timed)


def _own_folder(config: ExportConfig) -> Path:
    if not os.path.isdir(config.artifact):
        raise ConfigError(f"{config.artifact} is not a local folder: name a folder for the export as well")
    return Path(config.artifact, EXPORTS, config.format.replace(":", "-"))


def _new_folder(folder: str | Path) -> Path:
    try:
        target = Path(folder).resolve()
        free = not any(target.iterdir()) if target.is_dir() else not os.path.lexists(folder)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{str(folder)[:100]!r} cannot be a folder: {error}") from error
    if not free:
        raise ArtifactError(f"{folder} is not an empty folder: delete it, or name a new one")
    return target
