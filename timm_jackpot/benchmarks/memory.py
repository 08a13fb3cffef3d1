"""Memory: what a process holds, and the peak of a search step above that of a dense one."""

from __future__ import annotations

import ctypes
import gc
import platform
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_jackpot.base import maskable_weights
from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.benchmarks.steps import Step, build, dense_step, search_step
from timm_jackpot.errors import ConfigError
from timm_jackpot.runtime.paired import Ratio, spread

_M_MMAP_THRESHOLD, _MAPPED = -3, 1 << 16  # glibc's mallopt
_UNKNOWN = "{} on a CPU needs Linux with glibc: leave it out of --what"


def search_memory(name: str, config: BenchConfig) -> Ratio:
    """Bytes for each maskable weight by which the peak of a search step exceeds that of a dense step.

    From nothing to the peak of the third step: weights, scores, gradients, momenta, masks and activations. What is
    allocated counts, not the holes of a heap.

    Raises:
        ConfigError: on a CPU without Linux's peak counter and glibc.
    """
    if config.device.type == "cuda":
        return _measured(name, config)
    return in_own_process("search_memory", _measured, name, config)


def in_own_process(what: str, measure: Callable[..., Ratio], *args: Any) -> Ratio:
    """Measure in a process whose way to allocate no other benchmark should have.

    Raises:
        ConfigError: without Linux and glibc; names the benchmark `what`.
    """
    if platform.libc_ver()[0] != "glibc":
        raise ConfigError(_UNKNOWN.format(what))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_leave_no_holes) as process:
        return process.submit(measure, *args).result()


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
    return spread(extra)


def _peak(name: str, config: BenchConfig, make: Callable[[nn.Module, BenchConfig], Step]) -> int:
    forget(config.device)
    before = resident(config.device)
    step = make(build(name, config), config)
    for _ in range(2):
        step()
    _reset_peak(config)
    step()
    peak = resident(config.device, peak=True)
    del step
    return peak - before


def forget(device: torch.device) -> None:
    """Give back to the system what was freed, so that `resident` does not count it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak(config: BenchConfig) -> None:
    if config.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise ConfigError(_UNKNOWN.format("search_memory")) from error


def resident(device: torch.device, *, peak: bool = False) -> int:
    """Bytes that this process holds on a device, or its peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    # The sum over all mappings is exact, where status has a counter that is up to some hundred kB behind.
    file, field = ("status", "VmHWM") if peak else ("smaps_rollup", "Rss")
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self", file).read_text(), re.MULTILINE)
    assert found, "Linux has both"
    return 1024 * int(found[1])
