"""Image datasets on the Hugging Face Hub (`hfds/user/name`), through the `datasets` library.

timm's own reader contacts the Hub for every split, and cannot list the splits. This one contacts it once; like timm's,
it does not apply EXIF rotation and uses the cache of `datasets`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from timm_jackpot.errors import DataError

PREFIX = "hfds/"


@dataclass(frozen=True)
class HubData:
    """A dataset as described by its card; the images are downloaded when the first split is read."""

    name: str
    builder: Any

    @property
    def splits(self) -> dict[str, int]:
        """Number of images in each split."""
        if self.builder.info.splits is None:  # not on the card: needs the files
            self._fetch()
        return {name: split.num_examples for name, split in (self.builder.info.splits or {}).items()}

    @property
    def bytes_to_fetch(self) -> tuple[int, int] | None:
        """Bytes to download, and additional bytes for the unpacked copy; None if the card does not say."""
        info = self.builder.info
        return (info.download_size, info.dataset_size) if info.download_size and info.dataset_size else None

    @property
    def is_cached(self) -> bool:
        return Path(self.builder.cache_dir).is_dir()

    def share_images(self, one: str, other: str) -> bool:
        """Whether two splits, or parts of them such as "train[:10%]", overlap.

        Raises:
            DataError: for an invalid part.
        """
        mine, theirs = self._ranges(one), self._ranges(other)
        return any(a.splitname == b.splitname and max(a.from_, b.from_) < min(a.to, b.to) for a in mine for b in theirs)

    def _ranges(self, split: str) -> list[Any]:
        """The ranges of images of a split, a part of one, or a sum of parts."""
        import datasets

        known = self.splits
        try:
            return datasets.ReadInstruction.from_spec(split).to_absolute(known)
        except (ValueError, AssertionError) as error:
            raise DataError(
                f"{self.name} has no split {split!r}: parts of a split are written like train[:1000] or train[90%:]"
            ) from error

    def read(self, split: str, *, input_key: str | None = None, target_key: str | None = None) -> HubImages:
        """Read a split, or a part of it such as "train[:10%]".

        Raises:
            DataError: if it cannot be fetched, or does not have a column of images and one of integer labels.
        """
        self._fetch()
        import datasets

        with _explained(self.name):
            rows = self.builder.as_dataset(split=split)
        columns = rows.features
        image = _column(self.name, columns, input_key, "image", datasets.Image, "--input-key")
        label = _column(self.name, columns, target_key, "label", datasets.ClassLabel, "--target-key")
        kind = getattr(columns[label], "dtype", "")
        if not isinstance(columns[image], datasets.Image) or not str(kind).startswith(("int", "uint")):
            raise DataError(f"{self.name}: column {image} must hold images and column {label} integer labels")
        labels = _integers(rows, label)
        if len(labels) == 0 or labels.min() < 0:
            raise DataError(f"split {split} of {self.name} has images without labels: choose another split")
        rows = rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        names = getattr(columns[label], "names", None)
        return HubImages(rows, image, label, None if names is None else tuple(names))

    def _fetch(self) -> None:
        with _explained(self.name):
            self.builder.download_and_prepare()


class HubImages(Dataset[tuple[Image.Image, int]]):
    """(RGB image, label) by position."""

    def __init__(self, rows: Any, image: str, label: str, classes: tuple[str, ...] | None) -> None:
        self.rows, self.image, self.label, self.classes = rows, image, label, classes

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        row = self.rows[position]
        stored = row[self.image]
        with Image.open(BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]) as image:
            return image.convert("RGB"), int(row[self.label])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> Any:
        return _integers(self.rows, self.label)


def _integers(rows: Any, column: str) -> Any:
    return np.asarray(rows.select_columns([column]).with_format("numpy")[:][column])


@lru_cache(maxsize=8)
def open_hub_data(name: str, cache_dir: str | None) -> HubData:
    """Look up a dataset; `name` starts with hfds/.

    Raises:
        DataError: if `datasets` is not installed, or the Hub cannot be reached or has no such dataset for this user.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name} needs the datasets package: pip install datasets, or give --data-dir DIR with image folders"
        ) from error
    with _explained(name):
        return HubData(name, datasets.load_dataset_builder(name.removeprefix(PREFIX), cache_dir=cache_dir))


def _column(name: str, columns: Any, chosen: str | None, usual: str, kind: type, flag: str) -> str:
    """The column that a flag names, else the usual one, else the only one of its type."""
    if chosen is not None:
        if chosen in columns:
            return chosen
        raise DataError(f"{name} has no column {chosen}, only {', '.join(columns)}: choose another with {flag}")
    found = [key for key, feature in columns.items() if isinstance(feature, kind)]
    if usual in columns or len(found) == 1:
        return usual if usual in columns else found[0]
    raise DataError(f"{name} has the columns {', '.join(columns)}: choose the {usual} column with {flag}")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Silence `datasets`, and turn any error it raises into one sentence."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HFValidationError

    level, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    except DatasetNotFoundError as error:
        raise DataError(
            f"{name} is not on the Hub, or is private or gated: check the name, or ask for access and log in with "
            "`hf auth login`"
        ) from error
    except HFValidationError as error:
        raise DataError(f"{name} is not the name of a Hub dataset: expected hfds/user/name") from error
    except Exception as error:
        raise DataError(f"{name} {_reason(error)}") from error
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _reason(error: BaseException) -> str:
    """Explain an exception of `datasets` without its text, which may contain URLs and headers."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = "\n".join(map(str, chain))
    if "No space left" in text or "Not enough disk space" in text:
        return "does not fit on this disk: set HF_HOME to a larger one, or give --data-dir DIR with image folders"
    if "Config name is missing" in text:
        return "has several configurations, but a name such as hfds/user/name cannot select one: choose other data"
    network = {"huggingface_hub", "httpx", "httpx2", "requests"}
    if (
        network & {type(link).__module__.partition(".")[0] for link in chain}
        or any(isinstance(link, ConnectionError) for link in chain)
        or "on the Hugging Face Hub either" in text
    ):
        return (
            "could not be fetched: the Hub cannot be reached (or offline mode is on) and it is not in the local cache; "
            "give --data-dir DIR with image folders, or try again"
        )
    while error.__cause__ is not None:
        error = error.__cause__
    return f"could not be read ({type(error).__name__}): give --data-dir DIR with image folders instead"
