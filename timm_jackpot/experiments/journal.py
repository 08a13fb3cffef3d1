"""What an experiment has found so far, on disk."""

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
    """A result, and the settings that it was made from; both as JSON has them."""

    made_from: dict[str, Any]
    result: Any = None  # until it is there

    def check(self, made_from: Mapping[str, Any], where: str) -> None:
        """Refuse other settings.

        Raises:
            ConfigError: naming the first setting that differs.
        """
        different = sorted(
            key for key in self.made_from.keys() | made_from.keys() if self.made_from.get(key) != made_from.get(key)
        )
        if different:
            key = different[0]
            raise ConfigError(
                f"{where} with {key} {self.made_from.get(key)!r}, not {made_from.get(key)!r}: name another --output"
            )


class Journal:
    """Entries by key, in one JSON file, the same on every process; the main process alone reads and writes it.

    Every note replaces the file as a whole: a kill leaves the last complete one.

    Raises:
        ConfigError: if the file is there and holds no entries.
    """

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self.path, self._accelerator = path, accelerator
        self.entries: dict[str, JournalEntry] = from_main(accelerator, lambda: _read(path))

    def note(self, key: str, entry: JournalEntry) -> JournalEntry:
        """Keep an entry; returns the main process's, which every process keeps.

        Raises:
            ConfigError: if it cannot be written.
        """

        def write() -> JournalEntry:
            entries = {name: found._asdict() for name, found in {**self.entries, key: entry}.items()}
            write_atomically(self.path, json.dumps(entries, indent=1).encode())  # others may be reading it
            return entry

        self.entries[key] = from_main(self._accelerator, write)
        return self.entries[key]


def _read(path: Path) -> dict[str, JournalEntry]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: JournalEntry(dict(entry["made_from"]), entry["result"]) for key, entry in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: delete it to begin anew, or name another --output") from error
