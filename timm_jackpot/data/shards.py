"""WebDataset's tar shards, by position: `00012.jpg` with its label in `00012.cls`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from timm_jackpot.errors import DataError

_IMAGES = ("jpg", "jpeg", "png", "webp")


class _Place(NamedTuple):
    shard: Path
    offset: int
    size: int
    name: str


class Shards:
    """All images of some shards, found once by reading the headers of the tar files, and then in any order.

    A stream would be read in the order of its shards. Any order lets every rank, and a resumed run, see the same epoch.

    Attributes:
        targets: the labels.

    Raises:
        DataError: if a shard is damaged, an image has no label, or there are no images.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.targets: list[int] = []
        self._places: list[_Place] = []
        for shard in shards:
            try:
                self._list(shard)
            except (tarfile.TarError, OSError, ValueError) as error:
                raise DataError(f"{shard} is not a readable shard: {error}") from error
        if not self.targets:
            raise DataError(f"{shards[0].parent} holds no images: a shard has KEY.jpg and KEY.cls for each")

    def _list(self, shard: Path) -> None:
        images: dict[str, _Place] = {}
        labels: dict[str, int] = {}
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, slash, file_name = member.name.rpartition("/")
                stem, _, kind = file_name.partition(".")
                key = folder + slash + stem
                if kind.lower() in _IMAGES and member.isreg():
                    images[key] = _Place(shard, member.offset_data, member.size, member.name)
                elif kind == "cls" and (file := tar.extractfile(member)) is not None:
                    labels[key] = int(file.read(32))
        for key, place in images.items():
            if labels.get(key, -1) < 0:
                raise ValueError(f"{place.name} has no label {key}.cls, or a negative one")
            self._places.append(place)
            self.targets.append(labels[key])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        place = self._places[index]
        with place.shard.open("rb") as file:
            file.seek(place.offset)
            image = Image.open(io.BytesIO(file.read(place.size)))
        return image.convert("RGB"), self.targets[index]

    def filename(self, index: int) -> str:
        place = self._places[index]
        return f"{place.shard.name}/{place.name}"


def shards_in(folder: Path) -> list[Path]:
    """The tar files of a folder that has nothing else but files."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [] if any(entry.is_dir() for entry in entries) else [entry for entry in entries if entry.suffix == ".tar"]
