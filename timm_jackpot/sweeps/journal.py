"""Notes of a run on disk, by which it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm_jackpot.errors import ConfigError
from timm_jackpot.outputs import write_atomically


class Journal:
    """Entries by key in one JSON file, replaced as a whole at every note: a kill leaves the last complete one.

    Raises:
        ConfigError: if the file is there and holds no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Any] = {}
        if not path.exists():
            return
        try:
            self._entries = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged: delete it to begin anew, or name another --output") from error

    def note(self, key: str, entry: dict[str, Any]) -> None:
        self._entries[key] = entry
        write_atomically(self._path, json.dumps(self._entries, indent=1).encode())  # others may be reading it

    def entry(self, key: str) -> dict[str, Any]:
        """What was noted under `key`; empty where nothing was."""
        return self._entries.get(key, {})
