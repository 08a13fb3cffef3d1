"""The run record: one JSON object per line, written as the run goes, readable while it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Record:
    """Appends events to a file; without a path it only keeps them.

    Args:
        follow: called with the figures and the step of each event that has a step, for a tracker.
    """

    def __init__(self, path: Path | None = None, follow: Callable[[dict[str, float], int], None] | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._follow = follow
        self._file = path.open("w", encoding="utf-8") if path else None

    def write(self, kind: str, **values: Any) -> None:
        event = {"kind": kind, **values}
        self.events.append(event)
        if self._follow and "step" in values:
            self._follow({f"{kind}/{key}": value for key, value in values.items() if key != "step"}, values["step"])
        if self._file:
            self._file.write(json.dumps(event, allow_nan=False) + "\n")
            self._file.flush()

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (event for event in self.events if event["kind"] == kind)

    def last(self, kind: str) -> dict[str, Any]:
        """The latest event of a kind; empty if there is none."""
        return next((event for event in reversed(self.events) if event["kind"] == kind), {})

    def lines(self) -> str:
        return "".join(json.dumps(event, allow_nan=False) + "\n" for event in self.events)

    def close(self) -> None:
        if self._file:
            self._file.close()


def read_record(path: Path) -> Record:
    """A record from its file."""
    record = Record()
    record.events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return record
