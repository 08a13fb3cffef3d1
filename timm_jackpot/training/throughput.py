"""How fast a run is, how long it waits for images, and how much memory it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from timm_jackpot.runtime.processes import peak_memory

_Item = TypeVar("_Item")


class Throughput:
    """Counts from the end of the first step on, in which kernels are chosen and the optimizer's state is made."""

    def __init__(self, accelerator: Accelerator, images_per_step: int) -> None:
        self._accelerator, self._images = accelerator, images_per_step * accelerator.num_processes
        self._started: float | None = None
        self._steps, self._waited = 0, 0.0

    def waits_for(self, batches: Iterator[_Item]) -> Iterator[_Item]:
        while True:
            started = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - started
            yield batch

    def step_done(self) -> None:
        if self._started is None:
            self._started, self._waited = time.monotonic(), 0.0
        else:
            self._steps += 1

    def figures(self) -> dict[str, Any]:
        """Over all processes, and each one's share of the time that it waited for images, and peak memory in bytes.

        Nothing for a single step. Every process must call this.
        """
        if self._started is None or not self._steps:
            return {}
        seconds = time.monotonic() - self._started
        ranks = gather_object([(self._waited / seconds, peak_memory(self._accelerator.device))])
        return {
            "seconds_per_step": seconds / self._steps,
            "images_per_second": self._images * self._steps / seconds,
            "data_wait": [waited for waited, _ in ranks],
            "peak_bytes": [peak for _, peak in ranks],
        }
