"""`FairLock`: shared by forwards, exclusive for switches, in order of arrival."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from timm_jackpot.errors import ServingError


class FairLock:
    """First come, first served: a switch waits for running forwards, and later forwards wait for the switch.

    A thread that holds it may share it again without waiting: a forward within a forward never deadlocks.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[int] = []  # waiting threads
        self._holders: Counter[int] = Counter()  # number of holds, by thread
        self._exclusive = False

    def __reduce__(self) -> tuple[type[FairLock], tuple[()]]:
        return FairLock, ()  # a copy of the model starts with a free lock

    @contextmanager
    def hold(self, exclusive: str = "") -> Iterator[None]:
        """Share the lock, or hold it exclusively for the call named by `exclusive`.

        Raises:
            ServingError: if this thread already holds it and asks for exclusive use: it would wait for itself.
        """
        me = threading.get_ident()
        with self._changed:
            if exclusive and me in self._holders:
                raise ServingError(f"{exclusive} was called within a forward of the model: call it after the forward")
            if me not in self._holders:
                self._queue.append(me)
                try:
                    self._changed.wait_for(lambda: self._queue[0] == me and not self._taken(bool(exclusive)))
                    self._exclusive = bool(exclusive)
                finally:
                    self._queue.remove(me)
                    self._changed.notify_all()
            self._holders[me] += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders[me] -= 1
                if not self._holders[me]:
                    del self._holders[me]
                    self._exclusive = False
                    self._changed.notify_all()

    def _taken(self, exclusive: bool) -> bool:
        return self._exclusive or (exclusive and bool(self._holders))
