"""What is measured, on what."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from timm_jackpot.base import MAX_PIXELS
from timm_jackpot.schema import Command, Settings


class BenchConfig(Settings):
    """Cost of the package's work beside that of plain timm and torch, in turn in one process."""

    command: ClassVar[Command | None] = Command(
        "bench",
        (
            "--what search_step --models resnet50 vit_base_patch16_224",
            "--what search_step --batch-size 64 --img-size 224 --bf16",
            "--what load encode decode    # files, on the CPU",
        ),
    )

    what: tuple[str, ...] = (
        "search_step",
        "distill_step",
        "reference_step",
        "search_memory",
        "data_path",
        "load",
        "encode",
        "decode",
        "encode_compact",
        "decode_compact",
    )
    """Which benchmarks: search_step, distill_step, reference_step (every layer's scores sorted in every forward), each
    over a dense training step of the same model, batch and precision; search_memory (peak bytes above dense training,
    for each maskable weight); data_path (reading a batch of in-memory images over a search step); load
    (from_pretrained over timm.create_model, same local weights); encode, decode (packing and unpacking the masks over
    writing and reading the dense weights); encode_compact, decode_compact (the same with the masks coded on the
    ranks of the weights)."""
    models: tuple[str, ...] = ("resnet50",)
    """timm architectures, with random weights."""
    batch_size: int = Field(default=16, ge=2, le=2**16, json_schema_extra={"flags": ["-b"]})
    """Images per step."""
    img_size: int = Field(default=96, ge=32, le=MAX_PIXELS)
    """Image size of the steps, in pixels."""
    bf16: bool = False
    """Steps under bf16 autocast."""
    channels_last: bool = False
    """Steps in channels_last memory format."""
    pairs: int = Field(default=7, ge=1, le=10**4)
    """Counted pairs of each benchmark."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
