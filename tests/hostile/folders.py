"""What a folder can hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hostile.case import CONFIG, EXTRAS, MASKS, add


def _replace(file: str, put: Callable[[Path], object]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / file).unlink()
        put(folder / file)

    return build


_PLACES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
    "a link to a folder": lambda path: path.symlink_to("/"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a link to a process": lambda path: path.symlink_to("/proc/self/environ"),
    "a link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "a link to an endless file": lambda path: path.symlink_to("/proc/kmsg"),
    "a link to its neighbour": lambda path: path.symlink_to(next(p for p in path.parent.iterdir() if p.is_file()).name),
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
}
for _file_name in (CONFIG, MASKS, EXTRAS):
    for _label, _put_there in _PLACES.items():
        add(f"{_file_name} is {_label}", _replace(_file_name, _put_there))
add("an empty folder", lambda folder: [path.unlink() for path in folder.iterdir()])
add("a file instead of the folder", lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"")))
add("a link to nowhere instead of the folder", lambda folder: (shutil.rmtree(folder), folder.symlink_to("nowhere")))
add("a pipe instead of the folder", lambda folder: (shutil.rmtree(folder), os.mkfifo(folder)))
add(
    "weights in a pickle instead of the masks",
    lambda folder: (folder / MASKS).rename(folder / "pytorch_model.bin"),
)
