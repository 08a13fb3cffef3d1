"""What may stop a run from outside: a signal, or the death of the process that started it."""

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

_AGREE_EVERY = 10  # steps between two questions to the other ranks
_LAUNCHED = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}  # set by accelerate launch, and by torchrun


class Interruption:
    """Inside, SIGTERM and SIGINT are noted and not obeyed: the run asks `requested` after each step.

    A launcher that dies leaves its processes running: they watch for that. A shell may go (`nohup … &`).

    A second signal is obeyed at once. Only the main thread can listen; elsewhere nothing is changed.
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
        """The signal after which to stop now, the same on every rank; a launcher that has gone counts as SIGTERM.

        Args:
            last: whether this is the last time that it is asked: all ranks agree then, whatever the step.
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
        """From now on a signal raises what `stop` makes of its number: there is no step to wait for, nothing to save.

        Raises:
            BaseException: at once, if a signal has been noted already.
        """
        self._stop = stop
        if self._signal is not None:
            raise stop(self._signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker, which ends with its parent
            return
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = number
        if self._stop is not None:
            raise self._stop(number)
        with suppress(OSError, ValueError, RuntimeError):  # nobody reads it, or a line is just being written
            print("stopping after this step; a second signal stops at once", file=sys.stderr, flush=True)
