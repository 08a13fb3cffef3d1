"""What an exported network computes, takes and costs, beside the masked network in torch."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import quantiles

import torch
from torch import Tensor

from timm_jackpot.evidence import Latency, Sizes
from timm_jackpot.export.registry import Run
from timm_jackpot.runtime.paired import paired_seconds

_PAIRS = {1: 15, 32: 9}  # timed pairs by batch size


def latencies(before: Run, after: Run, images: Tensor) -> tuple[Latency, ...]:
    """Time two networks in turn on batches made of `images`, repeated as needed."""
    found = []
    for batch, pairs in _PAIRS.items():
        inputs = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch].contiguous()
        timed = paired_seconds(partial(before, inputs), partial(after, inputs), pairs=pairs)
        first, second = [1000 * b for b, _ in timed], [1000 * a for _, a in timed]
        speedup = _quartiles([b / a for b, a in timed])
        found.append(
            Latency(batch=batch, n=pairs, before_ms=_quartiles(first), after_ms=_quartiles(second), speedup=speedup)
        )
    return tuple(found)


def difference(wanted: Tensor, found: Tensor) -> tuple[float, float]:
    """max |Δlogit|, and the same over max |logit|."""
    largest = float((found - wanted).abs().max())
    return largest, largest / max(float(wanted.abs().max()), torch.finfo(wanted.dtype).tiny)


def sizes(files: Mapping[str, bytes]) -> Sizes:
    compressed = sum(len(lzma.compress(content, preset=1)) for content in files.values())
    return Sizes(disk=sum(map(len, files.values())), compressed=compressed)


def processor() -> str:
    """The name of this machine's processor, as its system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return round(lower, 4), round(middle, 4), round(upper, 4)
