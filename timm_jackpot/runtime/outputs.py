"""Where results go: a target is found unusable before the work, and a file is written as a whole."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from timm_jackpot.errors import ConfigError

# A file's name has 255 bytes on the usual file systems; what stands beside a folder (its lock, the weights of a search
# in random ones) adds to the folder's. What lies in it adds to the whole path, whose length systems bound too.
_LONGEST_NAME, _INSIDE = 230, "x" * 200


def check_output(folder: str | Path) -> Path:
    """Refuse a folder in which nothing can be written; nothing is created.

    Raises:
        ConfigError: if it is no name of a folder, is something else, or neither exists nor can be made.
    """
    path = Path(folder)
    if path.name in ("", "..") or "\0" in str(folder):
        raise ConfigError(f"--output {str(folder)!r} names no folder: name one, as --output runs/first")
    if max(len(os.fsencode(part)) for part in path.parts) > _LONGEST_NAME:
        raise ConfigError(f"--output {str(folder)[:40]}… is too long: a name may have {_LONGEST_NAME} bytes")
    try:
        existing = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
        if not existing.is_dir():
            raise ConfigError(f"--output {folder} cannot be written: {existing} is not a folder")
        with tempfile.TemporaryFile(dir=existing):
            pass
        with suppress(FileNotFoundError):
            (path.absolute() / _INSIDE).lstat()
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be written: {error.strerror or error}") from error
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, and the folders it is in: a reader, or a kill, finds the old content or the new.

    Raises:
        ConfigError: if it cannot be written.
    """
    aside = path.with_name(partial_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(aside, content)
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:  # after Ctrl-C too
        with suppress(OSError):
            aside.unlink()


def partial_name(name: str) -> str:
    """What a file is called while `write_atomically` writes it."""
    return f".{name}.part"


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Let what was written to a file, or renamed in a folder, be on the disk when this returns."""
    if os.name == "nt":  # which opens no folder, and syncs no file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
