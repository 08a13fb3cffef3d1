"""Who may use the working copy: many forwards together, or one switch alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from timm_jackpot.errors import SwitchError


class Turns:
    """Forwards run together; a switch runs alone.

    A forward waits for a switch to end, which is short. A switch waits for nobody: while anything runs it is refused,
    so that no two threads can wait for each other. The thread that switches may run forwards meanwhile.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._forwards = 0
        self._alone: int | None = None  # the thread that switches

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        """A copy of the model, or one read from a file, is in nobody's use."""
        return Turns, ()

    @contextmanager
    def forward(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._alone in (None, threading.get_ident()))
            self._forwards += 1
        try:
            yield
        finally:
            with self._changed:
                self._forwards -= 1

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """
        Raises:
            SwitchError: if a forward or another switch is running.
        """
        with self._changed:
            if self._forwards or self._alone is not None:
                running = "a forward is running" if self._forwards else "another switch is running"
                raise SwitchError(f"{what} was refused while {running}: call it when the model is idle")
            self._alone = threading.get_ident()
        try:
            yield
        finally:
            with self._changed:
                self._alone = None
                self._changed.notify_all()
