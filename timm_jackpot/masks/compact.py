"""Compact coding of masks, given the base's weights (FORMAT.md, "Compact masks").

Weight magnitudes nearly determine a searched mask: sorted by |w|, its bits change from mostly kept to mostly removed
around the kept count. In that order, a general-purpose compressor finds long runs.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_jackpot.masks.mask_set import MaskSet
from timm_jackpot.masks.packing import pack, packed_bytes, unpack

# Part of the format, because a raw stream does not store it; it also bounds a reader's memory.
_DICTIONARY: dict[str, Any] = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}
# The writer's choice: the smallest output of all settings tried. Bits are not aligned to bytes: lc = lp = pb = 0.
_WRITER: dict[str, Any] = {
    **_DICTIONARY,
    "lc": 0,
    "lp": 0,
    "pb": 0,
    "mode": lzma.MODE_NORMAL,
    "mf": lzma.MF_BT4,
    "nice_len": 273,
    "depth": 0,
}
_INDEX_BITS = 33  # next to 31 bits of magnitude: layers have at most 2³³ weights

Size = tuple[int, int]
"""Weights of a layer, and how many of them are kept."""


@dataclass(frozen=True)
class RankedMasks:
    """Masks decoded as far as possible without the weights: the bits of each layer by descending |w|, packed."""

    bits: Mapping[str, Tensor]  # U8, [⌈n/8⌉]

    def on(self, weights: Mapping[str, Tensor]) -> MaskSet:
        """The masks for these weights."""
        return MaskSet({name: _from_ranks(bits, weights[name]) for name, bits in self.bits.items()})


def rank_order(weight: Tensor) -> NDArray[np.int64]:
    """Indices (C order) of the weights from the largest |w| to the smallest, ties by index.

    The bits of float32 |w| are compared as integers: the same order as the numbers, and one that NaNs have too.
    """
    flat = weight.detach().cpu().to(torch.float32).reshape(-1).numpy().view(np.uint32)
    # One sort of 64-bit integers (magnitude above index) is ten times as fast as a stable argsort.
    keys = (np.uint32(0x7FFFFFFF) - (flat & np.uint32(0x7FFFFFFF))).astype(np.uint64)
    keys <<= np.uint64(_INDEX_BITS)
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << _INDEX_BITS) - 1)).astype(np.int64)


def encode_compact(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """All masks in one U8 tensor: the layers' bits in rank order, packed, then compressed together."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[_WRITER])
    coded = bytearray()
    for name, mask in masks.items():
        ranked = mask.detach().cpu().reshape(-1)[torch.from_numpy(rank_order(weights[name]))]
        coded += compressor.compress(pack(ranked).numpy().tobytes())
    return torch.frombuffer(coded + compressor.flush(), dtype=torch.uint8)


def most_compact_bytes(layers: Iterable[int]) -> int:
    """Upper bound on the bytes of compact masks, given the layer sizes: incompressible data are stored as they are."""
    packed = sum(map(packed_bytes, layers))
    return packed + packed // 1024 + 64


def decode_compact(coded: Tensor, sizes: Mapping[str, Size]) -> RankedMasks:
    """Invert `encode_compact` as far as possible without the weights.

    The counts of weights and of kept weights come from elsewhere (config.json); they bound work and memory.

    Raises:
        ValueError: if the stream is invalid, or does not keep as many weights as `sizes` says.
    """
    most = most_compact_bytes(n for n, _ in sizes.values())
    if len(coded) > most:
        raise ValueError(f"{len(coded)} bytes are more than the {most} that these masks can need")
    lengths = [packed_bytes(n) for n, _ in sizes.values()]
    data = _decompress(coded.numpy().tobytes(), sum(lengths))
    bits = dict(zip(sizes, torch.frombuffer(data, dtype=torch.uint8).split(lengths), strict=True))
    for name, (n, kept) in sizes.items():
        packed = bits[name].numpy()
        if n % 8 and packed[-1] >> n % 8:
            raise ValueError(f"spare bits after the last mask element of {name} are set")
        if np.bitwise_count(packed).sum(dtype=np.int64) != kept:
            raise ValueError(f"{name} does not keep {kept} weights")
    return RankedMasks(bits)


def _decompress(stream: bytes, expected: int) -> bytearray:
    """Decompress to exactly `expected` bytes; never produces more than one byte beyond them."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_DICTIONARY])
    try:
        data = decompressor.decompress(stream, max_length=expected + 1)  # one more, to see the end of the stream
    except lzma.LZMAError as error:
        raise ValueError(f"they do not decompress ({error})") from error
    if len(data) > expected:
        raise ValueError(f"they decompress to more than the {expected} bytes of these masks")
    if not decompressor.eof:
        raise ValueError("the stream ends too early")
    if len(data) < expected:
        raise ValueError(f"they decompress to {len(data)} bytes, not to the {expected} of these masks")
    if decompressor.unused_data:
        raise ValueError("there are bytes after the end of the stream")
    return bytearray(data)


def _from_ranks(packed: Tensor, weight: Tensor) -> Tensor:
    ranked = unpack(packed, (prod(weight.shape),)).numpy()
    mask = np.empty(len(ranked), np.bool_)
    mask[rank_order(weight)] = ranked
    return torch.from_numpy(mask).reshape(weight.shape)
