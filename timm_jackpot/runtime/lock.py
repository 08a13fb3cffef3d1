"""A lock on an output folder: one run per folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from timm_jackpot.errors import ConfigError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` against other runs in any process; the lock ends with the run, even if it is killed.

    Forked processes (data workers) do not inherit the lock: filelock closes its descriptor in them.

    Raises:
        ConfigError: if another run holds it, or its parent cannot be written to.
    """
    path = folder.with_name(f".{folder.name}.lock")
    created = [place for place in path.parents if not place.exists()]
    lock = FileLock(path, blocking=False, on_acquired=_write_process_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"another run (process {_holder(path)}) is writing to {folder}: choose another --output"
        ) from error
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot delete an open file; there, filelock deletes it on release
            path.unlink()
        lock.release()
        with suppress(OSError):  # fails, as it should, if the run left its folder in them
            for place in created:
                place.rmdir()


def _write_process_id(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").strip() or "unknown"
    return "unknown"
