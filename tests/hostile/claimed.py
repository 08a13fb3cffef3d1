"""Sizes that are only claimed."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import prod
from pathlib import Path

from hostile.case import CONFIG, EXTRAS, FIRST, GIANT, MASKS, add, claim_first_layer, edited, join, split


def _sparse(file: str, size: int, *, tell: bool) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        os.truncate(folder / file, size)
        if tell:
            with edited(folder) as config:
                config["files"][file]["bytes"] = size

    return build


for _file_name in (CONFIG, MASKS, EXTRAS):
    for _size in (10**9, GIANT):
        add(f"{_file_name} is sparse, {_size} bytes", _sparse(_file_name, _size, tell=False))
        if _file_name != CONFIG:
            add(f"{_file_name} is sparse and declared, {_size} bytes", _sparse(_file_name, _size, tell=True))


def _giant_layer(shape: list[int]) -> Callable[[Path], None]:
    """A layer of a size that it claims everywhere, in a file that takes no room."""

    def build(folder: Path) -> None:
        header, _ = split((folder / MASKS).read_bytes())
        grown = (prod(shape) + 7) // 8 - 54
        for name, entry in header.items():
            if name == FIRST:
                entry.update(shape=[54 + grown], data_offsets=[0, 54 + grown])
            elif name != "__metadata__":
                entry["data_offsets"] = [offset + grown for offset in entry["data_offsets"]]
        front = join(header, b"")
        size = len(front) + max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
        (folder / MASKS).write_bytes(front)
        os.truncate(folder / MASKS, size)
        with edited(folder) as config:
            claim_first_layer(config, shape)
            config["files"][MASKS]["bytes"] = size

    return build


for _shape in ([2**29], [2**31], [2**31, 2], [2**31, 100], [2**31, 256]):
    add(f"a sparse mask of shape {_shape}", _giant_layer(_shape))


def _giant_extra(size: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        with edited(folder) as config:
            config["extras"][0]["shape"] = [size]
            config["files"][EXTRAS]["bytes"] = 4 * size
        os.truncate(folder / EXTRAS, 4 * size)

    return build


for _size in (2**28, 2**31):
    add(f"a sparse extra of {_size} values", _giant_extra(_size))
