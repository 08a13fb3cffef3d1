"""One run for each folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from timm_jackpot.errors import ConfigError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against other runs, also those of other processes; a run that dies lets go of it.

    Raises:
        ConfigError: if another run holds it, or its parent cannot be written to.
    """
    path = folder.with_name(f".{folder.name}.lock")
    created = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"another run (process {holder}) is writing to {folder}: name another --output"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if created:
                with suppress(OSError):  # a run that came to something has left its folder in it
                    path.parent.rmdir()
