"""A lock on an output folder: one run per folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from filelock import FileLock, Timeout

from timm_jackpot.errors import ConfigError
from timm_jackpot.runtime.processes import from_main

_PROBE = 1.0  # seconds; others who only look hold a lock for less


@contextmanager
def locked(folder: Path, suffix: str = "") -> Iterator[None]:
    """Lock `folder`, or the share of it that the suffix names, against other runs in any process; the lock ends with
    the run, even if it is killed.

    Forked processes (data workers) do not inherit the lock: filelock closes its descriptor in them.

    Raises:
        ConfigError: if another run holds it, or its parent cannot be written to.
    """
    path = _lock_of(folder, suffix)
    created = [place for place in path.parents if not place.exists()]
    lock = FileLock(path, blocking=False, on_acquired=_write_process_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"the same part is running in {folder} already (process {_holder(path)})"
            if suffix
            else f"another run (process {_holder(path)}) is writing to {folder}: choose another --output"
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


def check_shared(folder: Path, accelerator: Accelerator) -> None:
    """Check that all processes see the lock that the main one holds on `folder`.

    Raises:
        ConfigError: on every process, naming the ranks that do not.
    """
    holder = from_main(accelerator, lambda: _holder(_lock_of(folder)))
    seen: list[bool] = gather_object([_holder(_lock_of(folder)) == holder])
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        raise ConfigError(
            f"rank {blind} does not see the folder {folder} that rank 0 writes to: give --output a path on a file "
            "system that all nodes share"
        )


def is_locked(folder: Path, suffix: str = "") -> bool:
    """Whether a run in any process holds this lock."""
    path = _lock_of(folder, suffix)
    if not path.exists():
        return False
    lock = FileLock(path, timeout=_PROBE)
    try:
        lock.acquire(poll_interval=_PROBE / 20)
    except Timeout:
        return True
    with suppress(OSError):
        path.unlink()  # left by a run that was killed
    lock.release()
    return False


def _lock_of(folder: Path, suffix: str = "") -> Path:
    return folder.with_name(f".{folder.name}{suffix}.lock")


def _write_process_id(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").strip() or "unknown"
    return "unknown"
