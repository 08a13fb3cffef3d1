"""The run record: one JSON object per line, written and readable during the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timm_jackpot.errors import TrainingError


class Record:
    """Collects events, and writes them to a file if there is a path.

    Args:
        track: called with the figures and the step of each event that has a step.
    """

    def __init__(self, path: Path | None = None, track: Callable[[dict[str, float], int], None] | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._track = track
        self._file = path.open("w", encoding="utf-8") if path else None

    def write(self, kind: str, **values: Any) -> None:
        event = {"kind": kind, **values}
        self.events.append(event)
        if self._track and "step" in values:
            self._track({f"{kind}/{key}": value for key, value in values.items() if key != "step"}, values["step"])
        if self._file:
            try:
                self._file.write(json.dumps(event, allow_nan=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise TrainingError(f"could not write the run record: {error.strerror or error}") from error

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (event for event in self.events if event["kind"] == kind)

    def last(self, kind: str) -> dict[str, Any]:
        """The latest event of a kind, or {} if there is none."""
        return next((event for event in reversed(self.events) if event["kind"] == kind), {})

    def lines(self) -> str:
        return "".join(json.dumps(event, allow_nan=False) + "\n" for event in self.events)

    def close(self) -> None:
        if self._file:
            with suppress(OSError):  # a failed write was reported when it happened
                self._file.close()


def start_tracker(accelerator: Accelerator, settings: Mapping[str, Any]) -> Callable[[dict[str, float], int], None]:
    """Start the accelerator's tracker with the settings of a run; returns `track` for its record."""
    plain = {
        key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in settings.items()
    }
    accelerator.init_trackers("timm_jackpot", config=plain)
    return lambda figures, step: accelerator.log(figures, step=step)


def read_record(path: Path) -> Record:
    """Read a record from its file."""
    record = Record()
    record.events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return record
