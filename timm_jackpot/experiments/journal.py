"""The journal of an experiment: its results so far, on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from timm_jackpot.errors import ConfigError
from timm_jackpot.runtime.outputs import write_atomically
from timm_jackpot.runtime.processes import from_main


class JournalEntry(NamedTuple):
    """A result and the settings it was made from, both as JSON values."""

    made_from: dict[str, Any]
    result: Any = None  # None until the cell has run

    def check(self, made_from: Mapping[str, Any], where: str) -> None:
        """Check that the result was made from these settings.

        Raises:
            ConfigError: naming the first setting that differs.
        """
        different = sorted(
            key for key in self.made_from.keys() | made_from.keys() if self.made_from.get(key) != made_from.get(key)
        )
        if different:
            key = different[0]
            raise ConfigError(
                f"{where} with {key} {self.made_from.get(key)!r}, not {made_from.get(key)!r}: choose another --output"
            )


class Journal:
    """Entries by key, in one JSON file. Only the main process reads and writes it; all processes see the same entries.

    Every write replaces the whole file atomically, so a kill cannot damage it.

    Raises:
        ConfigError: if the file exists but is damaged.
    """

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self.path, self._accelerator = path, accelerator
        self.entries: dict[str, JournalEntry] = from_main(accelerator, lambda: read_journal(path))

    def note(self, key: str, entry: JournalEntry) -> JournalEntry:
        """Save an entry; returns the main process's entry, which all processes keep.

        Raises:
            ConfigError: if it cannot be written.
        """

        def write() -> JournalEntry:
            entries = {name: found._asdict() for name, found in {**self.entries, key: entry}.items()}
            write_atomically(self.path, json.dumps(entries, indent=1).encode())  # others may be reading it
            return entry

        self.entries[key] = from_main(self._accelerator, write)
        return self.entries[key]


def read_journal(path: Path) -> dict[str, JournalEntry]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: JournalEntry(dict(entry["made_from"]), entry["result"]) for key, entry in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: delete it to start over, or choose another --output") from error
