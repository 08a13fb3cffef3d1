"""Peak memory of a search step above that of a dense one."""

from __future__ import annotations

import ctypes
import gc
import platform
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch import nn

from timm_jackpot.base import maskable_weights
from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.benchmarks.paired import Ratio
from timm_jackpot.benchmarks.steps import Step, build, dense_step, search_step
from timm_jackpot.errors import ConfigError

_M_MMAP_THRESHOLD, _MAPPED = -3, 1 << 16  # glibc's mallopt
_UNKNOWN = "search_memory on a CPU needs Linux with glibc: leave it out of --what"


def search_memory(name: str, config: BenchConfig) -> Ratio:
    """Bytes for each maskable weight by which the peak of a search step exceeds that of a dense step.

    From nothing to the peak of the third step: weights, scores, gradients, momenta, masks and activations. What is
    allocated counts, not the holes of a heap.

    Raises:
        ConfigError: on a CPU without Linux's peak counter and glibc.
    """
    if config.device.type == "cuda":
        return _measured(name, config)
    if platform.libc_ver()[0] != "glibc":
        raise ConfigError(_UNKNOWN)
    # A process of its own, whose way to allocate no other benchmark should have.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_leave_no_holes) as process:
        return process.submit(_measured, name, config).result()


def _leave_no_holes() -> None:
    """Have every tensor mapped by itself, and given back when it is freed."""
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED)


def _measured(name: str, config: BenchConfig) -> Ratio:
    torch.manual_seed(0)  # a new process has another state
    weights = sum(maskable_weights(build(name, config)).sizes.values())
    _peak(name, config, search_step)  # not counted: libraries load what a first step needs
    extra = []
    for _ in range(config.pairs):
        search = _peak(name, config, search_step)
        extra.append((search - _peak(name, config, dense_step)) / weights)
    return Ratio(median(extra), min(extra), max(extra), len(extra))


def _peak(name: str, config: BenchConfig, make: Callable[[nn.Module, BenchConfig], Step]) -> int:
    _forget(config)
    before = _resident(config)
    step = make(build(name, config), config)
    for _ in range(2):
        step()
    _reset_peak(config)
    step()
    peak = _resident(config, peak=True)
    del step
    return peak - before


def _forget(config: BenchConfig) -> None:
    gc.collect()
    if config.device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, and out of the count


def _reset_peak(config: BenchConfig) -> None:
    if config.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise ConfigError(_UNKNOWN) from error


def _resident(config: BenchConfig, *, peak: bool = False) -> int:
    if config.device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status)
    assert found, "Linux has both"
    return 1024 * int(found[1])
