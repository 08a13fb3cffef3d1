"""Stop a run from outside: by a signal, or because its launcher died."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator

_AGREE_EVERY = 10  # steps between two checks with the other ranks
_LAUNCHED = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}  # set by accelerate launch, and by torchrun


class Interruption:
    """While active, SIGTERM and SIGINT are only recorded; the run asks `requested` after each step.

    A launcher that dies leaves its processes running, so they watch for that. A shell may exit (`nohup … &`).

    A second signal takes effect at once. Works in the main thread only; in others it does nothing.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._signal: int | None = None
        self._process = os.getpid()
        self._stop: Callable[[int], BaseException] | None = None
        self._launcher = os.getppid() if _LAUNCHED & os.environ.keys() else None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # set from outside Python
                signal.signal(number, handler)

    def requested(self, step: int, *, last: bool = False) -> int | None:
        """The signal to stop for, the same on every rank, or None; a dead launcher counts as SIGTERM.

        Args:
            last: whether this is the last call: all ranks then agree, whatever the step.
        """
        if self._signal is None and self._launcher not in (None, os.getppid()):
            self._signal = signal.SIGTERM
        if self._accelerator.num_processes == 1:
            return self._signal
        if step % _AGREE_EVERY and not last:
            return None
        mine = torch.tensor([self._signal or 0], device=self._accelerator.device)
        found = int(self._accelerator.gather(mine).max())  # pyright: ignore
        return found or None

    def stop_at_once(self, stop: Callable[[int], BaseException]) -> None:
        """From now on a signal raises `stop(number)` at once: there is no step to wait for and nothing to save.

        Raises:
            BaseException: immediately, if a signal was already recorded.
        """
        self._stop = stop
        if self._signal is not None:
            raise stop(self._signal)

    def stop_after_a_step(self) -> None:
        """Undo `stop_at_once`: from now on a signal waits for the next `requested`."""
        self._stop = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker; it ends with its parent
            return
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = number
        if self._stop is not None:
            raise self._stop(number)
        with suppress(OSError, ValueError, RuntimeError):  # stderr is closed, or a line is being written
            print("stopping after this step; a second signal stops at once", file=sys.stderr, flush=True)
