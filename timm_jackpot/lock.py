"""One run for each folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from timm_jackpot.errors import ConfigError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against other runs, also those of other processes; a run that dies lets go of it.

    Raises:
        ConfigError: if another run holds it, or its parent cannot be written to.
    """
    path = folder.with_name(f".{folder.name}.lock")
    created = not path.parent.exists()
    with _held(path, folder) as file:
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


def _held(path: Path, folder: Path) -> TextIO:
    """The lock file, held; the kernel lets go of it when its process ends, however it ends."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output {folder} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"another run (process {holder}) is writing to {folder}: name another --output"
            ) from error
        except OSError as error:
            file.close()
            raise ConfigError(f"--output {folder} cannot be locked: {error.strerror}") from error
        if _is_at(path, file):
            return file
        file.close()  # deleted by a run that ended between the two calls: it locks nothing any more


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
