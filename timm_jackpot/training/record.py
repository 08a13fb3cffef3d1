"""The run record: one JSON object per line, written as the run goes, readable while it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timm_jackpot.errors import TrainingError


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
            try:
                self._file.write(json.dumps(event, allow_nan=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise TrainingError(f"the record of the run could not be written: {error.strerror or error}") from error

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (event for event in self.events if event["kind"] == kind)

    def last(self, kind: str) -> dict[str, Any]:
        """The latest event of a kind; empty if there is none."""
        return next((event for event in reversed(self.events) if event["kind"] == kind), {})

    def lines(self) -> str:
        return "".join(json.dumps(event, allow_nan=False) + "\n" for event in self.events)

    def close(self) -> None:
        if self._file:
            with suppress(OSError):  # a line that did not go to the disk, and was reported when it was written
                self._file.close()


def follow_with_tracker(
    accelerator: Accelerator, settings: Mapping[str, Any]
) -> Callable[[dict[str, float], int], None]:
    """Begin the accelerator's tracker with a run's settings; what returns is a record's `follow`."""
    plain = {
        key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in settings.items()
    }
    accelerator.init_trackers("timm_jackpot", config=plain)
    return lambda figures, step: accelerator.log(figures, step=step)


def read_record(path: Path) -> Record:
    """A record from its file."""
    record = Record()
    record.events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return record
