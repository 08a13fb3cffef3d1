"""Interleaved range coding of bits (rANS, Duda, arXiv:1311.2540) in numpy: many lanes, stepped by vector operations.

Written here rather than taken from constriction, which is well kept: a coder this small can be specified to the
bit on one page (FORMAT.md, "Compact masks"), needs no compiled dependency, and ends in known states where a stream is
sound.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

PROBABILITY_BITS = 12
ONE = 1 << PROBABILITY_BITS  # a probability p is the integer p · 4096, from 1 to 4095
START = 1 << 16  # every lane's state before the first bit is coded, and after the last is decoded
_STEPS = 8192  # at most, whatever the size: a step costs the same few calls however many lanes it has
_WINDOW = 1 << 18  # bits that are held at a time

Runs = tuple[NDArray[np.int64], NDArray[np.uint32]]
"""Where each run of bits of one probability ends (ascending, the last one at the number of bits), and that of a 1."""


def lane_count(n: int) -> int:
    """Lanes that `n` bits are coded in; bit i belongs to lane i mod lanes."""
    return max(1, -(-n // _STEPS))


def least_bytes(n: int) -> int:
    """Bytes that a stream of `n` bits takes at least: its states."""
    return 4 * lane_count(n)


def encode_bits(bits: NDArray[np.uint8], runs: Runs) -> bytes:
    """Code bits (0 or 1), each under its run's probability: the lanes' final states (u32), then words (u16)."""
    lanes = lane_count(len(bits))
    states = np.full(lanes, START, np.uint32)
    blocks: list[NDArray[np.uint16]] = []
    for first, probabilities in _windows(len(bits), lanes, runs, backwards=True):
        window = bits[first : first + len(probabilities)] == 1
        widths = np.where(window, probabilities, ONE - probabilities)
        starts = np.where(window, np.uint32(0), probabilities)
        for at in reversed(range(0, len(window), lanes)):
            width, start = widths[at : at + lanes], starts[at : at + lanes]
            state = states[: len(width)]
            full = state >= width << 20
            blocks.append(state[full].astype("<u2"))  # the low half
            state[full] >>= 16
            quotient, rest = np.divmod(state, width)
            states[: len(width)] = (quotient << PROBABILITY_BITS) + rest + start
    return states.astype("<u4").tobytes() + b"".join(block.tobytes() for block in reversed(blocks))


def decode_bits(stream: bytes, runs: Runs) -> Iterator[NDArray[np.bool_]]:
    """The bits that `encode_bits` was given, some at a time, as long as the stream can be right.

    Work and memory follow from the runs, never from the stream.

    Raises:
        ValueError: if the stream is shorter than its states, runs out, is not used up, or does not end as one does.
    """
    n = int(runs[0][-1]) if len(runs[0]) else 0
    lanes = lane_count(n)
    if len(stream) < 4 * lanes or len(stream) % 2:
        raise ValueError(f"the stream of {n} bits has {len(stream)} bytes, expected an even number from {4 * lanes}")
    states = np.frombuffer(stream, "<u4", lanes).astype(np.uint32)
    words = np.frombuffer(stream, "<u2", offset=4 * lanes)
    if (states < START).any():
        raise ValueError("the stream begins in a state that no coder leaves")
    used = 0
    for _, probabilities in _windows(n, lanes, runs):
        bits = np.empty(len(probabilities), np.bool_)
        for at in range(0, len(bits), lanes):
            probability = probabilities[at : at + lanes]
            state = states[: len(probability)]
            share = probability * (state >> PROBABILITY_BITS)
            rest = state & (ONE - 1)
            one = rest < probability
            bits[at : at + lanes] = one
            state[:] = np.where(one, share + rest, state - share - probability)
            empty = np.flatnonzero(state < START)
            if used + len(empty) > len(words):
                raise ValueError("the stream ends too early")
            state[empty] = (state[empty] << 16) | words[used : used + len(empty)]
            used += len(empty)
        yield bits
    if used != len(words) or (states != START).any():
        raise ValueError("the stream does not end as it should")


def _windows(n: int, lanes: int, runs: Runs, *, backwards: bool = False) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """First bit and probabilities of each window of whole steps."""
    ends, values = runs
    size = max(1, _WINDOW // lanes) * lanes
    firsts = range(0, n, size)
    for first in reversed(firsts) if backwards else firsts:
        past = min(first + size, n)
        here = slice(np.searchsorted(ends, first, "right"), np.searchsorted(ends, past, "left") + 1)
        lengths = np.diff(ends[here].clip(first, past), prepend=first)
        yield first, np.repeat(values[here], lengths)
