"""Masks ↔ few bytes, given the base's weights (FORMAT.md, "Compact masks").

A mask that was searched is nearly determined by the magnitudes of its weights: sorted by |w|, its bits change from
mostly kept to mostly removed around the kept count. They are coded in that order, under 16 probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_jackpot.masks.mask_set import MaskSet
from timm_jackpot.masks.packing import packed_bytes, unpack
from timm_jackpot.masks.rans import ONE, Runs, decode_bits, encode_bits, least_bytes

# Odds, in 64ths, of a rank's place in its layer over those of the kept count: steps of 2^(2/3), from 1/11 to 64.
_ODDS = (6, 10, 16, 25, 40, 64, 102, 161, 256, 406, 645, 1024, 1625, 2580, 4096)
_BINS = len(_ODDS) + 1
_TABLE_BYTES = 2 * _BINS
_INDEX_BITS = 33  # beside 31 of a magnitude: layers of at most 2³³ weights

Size = tuple[int, int]
"""Weights of a layer, and how many of them are kept."""


@dataclass(frozen=True)
class RankedMasks:
    """Masks as far as they can be read without the weights: the bits of each layer by descending |w|, packed."""

    bits: Mapping[str, Tensor]  # U8, [⌈n/8⌉]
    coded_bytes: int  # what they were read from

    def on(self, weights: Mapping[str, Tensor]) -> MaskSet:
        """The masks of these weights."""
        return MaskSet({name: _from_ranks(bits, weights[name]) for name, bits in self.bits.items()})


def rank_order(weight: Tensor) -> NDArray[np.int64]:
    """Indices (C order) of the weights from the largest |w| to the smallest, ties by index.

    Compared are the bits of float32 |w| as integers, which is the order of the numbers, and one of NaNs besides.
    """
    flat = weight.detach().cpu().to(torch.float32).reshape(-1).numpy().view(np.uint32)
    # One sort of 64-bit integers, index below magnitude, takes a tenth of the time of a stable argsort.
    keys = (np.uint32(0x7FFFFFFF) - (flat & np.uint32(0x7FFFFFFF))).astype(np.uint64)
    keys <<= np.uint64(_INDEX_BITS)
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << _INDEX_BITS) - 1)).astype(np.int64)


def encode_compact(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """All masks in one U8 tensor: a table of probabilities, and the stream of bits by rank."""
    sizes = [(mask.numel(), int(mask.count_nonzero())) for mask in masks.values()]
    bits = np.empty(sum(n for n, _ in sizes), np.uint8)
    at = 0
    for name, mask in masks.items():
        flat = mask.detach().cpu().reshape(-1).numpy()
        bits[at : at + len(flat)] = flat[rank_order(weights[name])]
        at += len(flat)
    ends = _bin_ends(sizes)
    table = _fit_table(bits, ends)
    coded = table.astype("<u2").tobytes() + encode_bits(bits, _runs(ends, table))
    return torch.frombuffer(bytearray(coded), dtype=torch.uint8)


def compact_limits(total: int) -> tuple[int, int]:
    """Bytes that the masks of `total` weights take at least and at most when compact."""
    least = _TABLE_BYTES + least_bytes(total)
    return least, least + 2 * packed_bytes(total)


def decode_compact(coded: Tensor, sizes: Mapping[str, Size]) -> RankedMasks:
    """Inverse of `encode_compact` as far as it goes without the weights.

    The numbers of weights and of kept ones come from elsewhere (config.json); work and memory follow from them.

    Raises:
        ValueError: if table or stream are not sound, or do not keep as many weights as `sizes` says.
    """
    data = coded.numpy().tobytes()
    least, most = compact_limits(sum(n for n, _ in sizes.values()))
    if not least <= len(data) <= most:
        raise ValueError(f"{len(data)} bytes cannot hold these masks, which take {least} to {most}")
    table = np.frombuffer(data, "<u2", _BINS).astype(np.uint32)
    if table.min() < 1 or table.max() >= ONE:
        raise ValueError(f"a probability is not in 1 to {ONE - 1}")
    pieces = decode_bits(data[_TABLE_BYTES:], _runs(_bin_ends(sizes.values()), table))
    bits, rest = {}, np.empty(0, np.bool_)
    for name, (n, kept) in sizes.items():
        packed, ones, rest = _take(n, rest, pieces)
        if ones != kept:
            raise ValueError(f"{name} does not keep {kept} weights")
        bits[name] = torch.from_numpy(packed)
    spare = len(rest) + sum(len(piece) for piece in pieces)  # asked for more, the stream checks its end
    assert spare == 0
    return RankedMasks(bits, len(data))


def _from_ranks(packed: Tensor, weight: Tensor) -> Tensor:
    ranked = unpack(packed, (prod(weight.shape),)).numpy()
    mask = np.empty(len(ranked), np.bool_)
    mask[rank_order(weight)] = ranked
    return torch.from_numpy(mask).reshape(weight.shape)


def _bin_ends(sizes: Iterable[Size]) -> NDArray[np.int64]:
    """Where the 16 bins of each layer end, counted through all layers: [layers · 16], ascending."""
    ends, before = [], 0
    for n, kept in sizes:
        # a/64 times the odds of the kept count, kept/(n − kept), are those of this place.
        ends += [before + n * a * kept // max(1, a * kept + 64 * (n - kept)) for a in _ODDS]
        before += n
        ends.append(before)
    return np.array(ends, np.int64)


def _fit_table(bits: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The fraction of ones in each of the 16 bins over all layers, in 4096ths, never 0 or 1."""
    count, ones = np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)
    first = 0
    for place, end in enumerate(ends.tolist()):
        count[place % _BINS] += end - first
        ones[place % _BINS] += np.count_nonzero(bits[first:end])
        first = end
    return ((ones * ONE + count // 2) // np.maximum(count, 1)).clip(1, ONE - 1).astype(np.uint32)


def _runs(ends: NDArray[np.int64], table: NDArray[np.uint32]) -> Runs:
    return ends, np.tile(table, len(ends) // _BINS)


def _take(
    n: int, rest: NDArray[np.bool_], pieces: Iterator[NDArray[np.bool_]]
) -> tuple[NDArray[np.uint8], int, NDArray[np.bool_]]:
    """The next `n` bits, packed as they come; how many are ones; and what is left of the last piece."""
    packed, ones, bits = [], 0, np.empty(0, np.bool_)
    while n:
        rest = rest if len(rest) else next(pieces)
        part, rest = rest[:n], rest[n:]
        n -= len(part)
        ones += int(np.count_nonzero(part))
        bits = np.concatenate([bits, part])
        whole = len(bits) // 8 * 8 if n else len(bits)
        packed.append(np.packbits(bits[:whole], bitorder="little"))
        bits = bits[whole:]
    return np.concatenate(packed) if packed else np.empty(0, np.uint8), ones, rest
