"""Faults that a test asks the Hub to commit."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from .messages import Request

FaultKind = Literal["500", "503", "slow", "cut", "corrupt"]
BEFORE: Collection[FaultKind] = ("500", "503", "slow")
"""Faults that need no answer to spoil."""
AFTER: Collection[FaultKind] = ("cut", "corrupt")
"""Faults of a body: they wait for a successful answer that has one."""


@dataclass
class Fault:
    path_substring: str
    kind: FaultKind
    times: int | None
    method: str | None
    seconds: float

    def matches(self, request: Request) -> bool:
        return self.path_substring in request.path and self.method in (None, request.method)


class FaultPlan:
    """The faults still to be committed, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        if fault.kind not in get_args(FaultKind):
            raise ValueError(f"unknown kind of fault: {fault.kind!r}")
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, request: Request, kinds: Collection[FaultKind]) -> Fault | None:
        """The first fault due for the request, used up by one."""
        with self._lock:
            for fault in self._faults:
                if fault.kind in kinds and fault.matches(request):
                    self._use(fault)
                    return fault
        return None

    def _use(self, fault: Fault) -> None:
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self._faults.remove(fault)


def corrupted(body: bytes) -> bytes:
    """The same length, the last byte wrong."""
    return body[:-1] + bytes([body[-1] ^ 0xFF])
