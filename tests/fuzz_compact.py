"""Random and mutated streams against the compact decoder: small masks, many of them.

    python tests/fuzz_compact.py 1000000 [seed]

prints what came of them as one JSON object. A stream may be refused, or decode to the mask that was coded, or to
another one of the same counts: the mask hash catches that. Anything else is a fault.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from timm_jackpot.masks import MaskSet, decode_compact, encode_compact, keep_largest, rans

SLOW = 1.0  # seconds of the processor (others may keep it busy) for one stream of a few hundred bits: a hang


@dataclass(frozen=True)
class Target:
    """A good stream, and all that a reader knows from elsewhere."""

    weights: dict[str, Tensor]
    masks: MaskSet
    mask_hash: str
    sizes: dict[str, tuple[int, int]]
    stream: bytes
    steps: int  # at most, for each lane: small ones give small masks several lanes


def make_target(random: np.random.Generator) -> Target:
    shapes = [tuple(map(int, random.integers(1, 6, random.integers(1, 4)))) for _ in range(random.integers(1, 4))]
    weights, masks = {}, {}
    for i, shape in enumerate(shapes):
        weight = torch.from_numpy(random.normal(size=shape).astype(np.float32))
        noisy = weight.abs() * torch.from_numpy(np.exp(random.normal(scale=0.5, size=shape)).astype(np.float32))
        weights[f"layer{i}"] = weight
        masks[f"layer{i}"] = keep_largest(noisy, int(random.integers(0, weight.numel() + 1)))
    found = MaskSet(masks)
    sizes = {name: (mask.numel(), int(mask.sum())) for name, mask in found.items()}
    rans._STEPS = int(random.choice([8, 32, 8192]))
    stream = encode_compact(found, weights).numpy().tobytes()
    return Target(weights, found, found.hash(), sizes, stream, rans._STEPS)


def mutated(target: Target, random: np.random.Generator) -> bytes:
    """Another stream: bits flipped, bytes put in, taken out, made up, or all made up; or sound, of another mask."""
    stream, kind = target.stream, random.integers(9)
    at = int(random.integers(len(stream)))
    some = random.bytes(int(random.integers(1, 5)))
    if kind == 0:
        return random.bytes(len(stream))
    if kind == 1:  # a sound table, and states that a coder may leave, before made-up words
        states = random.integers(1 << 16, 1 << 32, (len(stream) - 32) // 4, dtype=np.uint32)
        return (stream[:32] + states.astype("<u4").tobytes() + random.bytes(len(stream)))[: len(stream)]
    if kind == 2:
        return stream[:at] + some + stream[at:]
    if kind == 3:
        return stream[:at] + stream[at + len(some) :]
    if kind == 4:
        return stream[:at]
    if kind == 5:
        return stream[:at] + some + stream[at + len(some) :]
    if kind == 6:
        return stream[:32] + random.permutation(np.frombuffer(stream[32:], np.uint8)).tobytes()
    if kind == 7:
        rans._STEPS = target.steps
        others = {name: mask.reshape(-1)[random.permutation(mask.numel())] for name, mask in target.masks.items()}
        return (
            encode_compact(
                {name: other.reshape(target.masks[name].shape) for name, other in others.items()}, target.weights
            )
            .numpy()
            .tobytes()
        )
    changed = bytearray(stream)
    for _ in range(random.integers(1, 4)):
        changed[random.integers(len(changed))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def outcome(target: Target, stream: bytes) -> str:
    """`refused`, `the same mask`, `another mask, caught by its hash`, or a fault."""
    rans._STEPS = target.steps
    started = time.process_time()
    try:
        ranked = decode_compact(torch.frombuffer(bytearray(stream), dtype=torch.uint8), target.sizes)
    except ValueError:
        return "refused" if time.process_time() - started < SLOW else "hung"
    except Exception as error:
        return f"crashed: {type(error).__name__}"
    masks = ranked.on(target.weights)
    if time.process_time() - started >= SLOW:
        return "hung"
    if masks.hash() != target.mask_hash:
        return "another mask, caught by its hash"
    return "the same mask" if masks == target.masks else "passed as a wrong mask"


FINE = {"refused", "the same mask", "another mask, caught by its hash"}


def fuzz(streams: int, seed: int = 0) -> dict[str, int]:
    """How many of so many streams came to what."""
    random = np.random.default_rng(seed)
    steps, found = rans._STEPS, Counter({"streams": streams})
    try:
        for number in range(streams):
            if number % 100 == 0:
                target = make_target(random)
                assert outcome(target, target.stream) == "the same mask"
            stream = mutated(target, random) or b"\0"
            found[outcome(target, stream)] += 1
    finally:
        rans._STEPS = steps
    return dict(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    began = time.perf_counter()
    print(json.dumps({**fuzz(int(sys.argv[1]), *map(int, sys.argv[2:])), "seconds": time.perf_counter() - began}))
