"""What is measured, on what."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from timm_jackpot.base import MAX_PIXELS
from timm_jackpot.export import format_names
from timm_jackpot.schema import Command, OneOf, Settings


class BenchConfig(Settings):
    """Cost of the package's work beside that of plain timm and torch, in turn in one process."""

    command: ClassVar[Command | None] = Command(
        "bench",
        (
            "--what search_step --models resnet50 vit_base_patch16_224",
            "--what serve_switch serve_routed --models mobilenetv2_100 --tasks 100",
            "--what export --models resnet50 --img-size 224 --sparsities 0.5 0.9",
        ),
    )

    what: tuple[str, ...] = (
        "search_step",
        "distill_step",
        "reference_step",
        "search_memory",
        "data_path",
        "image_files",
        "load",
        "encode",
        "decode",
        "encode_compact",
        "decode_compact",
        "serve_memory",
        "serve_switch",
        "serve_routed",
        "serve_routed_8",
    )
    """Which benchmarks: search_step, distill_step, reference_step (every layer's scores sorted in every forward), each
    over a dense training step of the same model, batch and precision; search_memory (peak bytes above dense training,
    for each maskable weight); data_path (reading a batch of in-memory images over a search step); image_files
    (reading a batch of JPEG files over timm's loader, in one process); load
    (from_pretrained over timm.create_model, same local weights); encode, decode (packing and unpacking the masks over
    writing and reading the dense weights); encode_compact, decode_compact (the same with the masks coded on the
    ranks of the weights); serve_memory (bytes that each further task adds to a JackpotModel over those of a dense
    model), serve_switch (set_adapter over the forward pass of one image), serve_routed, serve_routed_8 (predict of a
    shuffled batch with one image per task, or eight, over the same batch through one dense model per task); and export
    (what a mask would give in the --formats, by its --allocations and --sparsities: time over that of the same network
    in torch, with quartiles over pairs, and the mask's own share)."""
    models: tuple[str, ...] = ("resnet50",)
    """timm architectures, with random weights."""
    batch_size: int = Field(default=16, ge=2, le=2**16, json_schema_extra={"flags": ["-b"]})
    """Images per step."""
    img_size: int = Field(default=96, ge=32, le=MAX_PIXELS)
    """Image size of steps and served images, in pixels."""
    bf16: bool = False
    """Steps under bf16 autocast."""
    channels_last: bool | None = None
    """Steps in channels_last memory format. Default: on GPUs, as in a search."""
    pairs: int = Field(default=7, ge=1, le=10**4)
    """Counted pairs of each benchmark."""
    tasks: tuple[Annotated[int, Field(ge=2, le=10**4)], ...] = (10,)
    """Numbers of tasks on one JackpotModel in the serve_… benchmarks, a row for each; a task has a mask at 50 % and a
    new head of 102 classes."""

    allocations: tuple[str, ...] = ("erk",)
    """Kinds of masks for export, as --allocation of a search has them."""
    sparsities: tuple[str, ...] = ("0.9",)
    """Their sparsities."""
    formats: tuple[Annotated[str, OneOf(format_names)], ...] = ("onnx", "sparse-csr")
    """Formats for export."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def in_channels_last(self) -> bool:
        return self.device.type == "cuda" if self.channels_last is None else self.channels_last
