"""Output folders and files: a folder is checked before the work starts, and files are written atomically."""

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
    """Check that a folder can be written to; nothing is created.

    Raises:
        ConfigError: if it is not a folder name, is not a folder, or neither exists nor can be created.
    """
    path = Path(folder)
    if path.name in ("", "..") or "\0" in str(folder):
        raise ConfigError(f"--output {str(folder)!r} is not a folder name: give one, such as --output runs/first")
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
    """Write a file and create its parent folders; readers see the old or the new content, even after a kill.

    Raises:
        ConfigError: if it cannot be written.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(partial, content)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:  # after Ctrl-C too
        with suppress(OSError):
            partial.unlink()


def partial_name(name: str) -> str:
    """The name of a file while `write_atomically` is writing it."""
    return f".{name}.part"


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Flush a file, or the renames in a folder, to disk."""
    if os.name == "nt":  # cannot open folders, or sync files opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
