"""Masks ↔ bytes, one bit per weight (FORMAT.md, "masks.safetensors")."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor


def packed_bytes(n: int) -> int:
    """Number of bytes of `n` packed mask elements."""
    return (n + 7) // 8


def pack(mask: Tensor) -> Tensor:
    """Pack a boolean mask of any shape into a U8 tensor of shape [ceil(n/8)].

    Element i, in C order of the *logical* shape whatever the memory format, becomes bit i mod 8 (least
    significant first) of byte ⌊i/8⌋; spare bits are zero.
    """
    assert mask.dtype == torch.bool
    # reshape reads a channels_last mask in logical order.
    flat = mask.detach().cpu().reshape(-1).numpy()
    return torch.from_numpy(np.packbits(flat, bitorder="little"))


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `pack`: a boolean tensor of `shape`.

    Raises:
        ValueError: if the length is not ceil(n/8) or a spare bit is set.
    """
    n = prod(shape)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (packed_bytes(n),):
        raise ValueError(f"{n} mask elements need {packed_bytes(n)} bytes (U8), found {tuple(packed.shape)}")
    bits = np.unpackbits(packed.numpy(), bitorder="little")
    if bits[n:].any():
        raise ValueError("spare bits after the last mask element are set")
    return torch.from_numpy(bits[:n].view(np.bool_)).reshape(tuple(shape))
