"""One experiment split over processes or machines that share a folder, such as the jobs of a SLURM array."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from accelerate import Accelerator
from pydantic import field_validator

from timm_jackpot.errors import ConfigError
from timm_jackpot.runtime.lock import is_locked, locked
from timm_jackpot.runtime.processes import from_main
from timm_jackpot.schema import Settings

_MAX = 10_000
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`: every `count`-th item, from the `number`-th on. The default is everything."""

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str | None) -> Part:
        """
        Raises:
            ValueError: if the text is not of the form 2/4.
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        part = cls(int(match[1]), int(match[2])) if match else None
        if part is None or not 1 <= part.number <= part.count <= _MAX:
            raise ValueError("write the second of four parts as 2/4")
        return part

    @property
    def suffix(self) -> str:
        """What the names of its files have: `.2of4`; empty for everything."""
        return f".{self.number}of{self.count}" if self.count > 1 else ""

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    def share(self, items: Sequence[_Item]) -> Sequence[_Item]:
        return items[self.number - 1 :: self.count]

    def file(self, path: Path) -> Path:
        """This part's own file in place of a file of the whole experiment."""
        return path.with_name(f"{path.stem}{self.suffix}{path.suffix}")


class PartFlags(Settings):
    """For experiments whose runs do not depend on each other."""

    group: ClassVar[str] = "Options"

    part: str | None = None
    """Run only one share of the work, such as 2/4; others run theirs at the same time, in the same --output. When all
    have ended, run without --part: nothing is run again, and the tables are written."""

    @field_validator("part")
    @classmethod
    def _is_a_part(cls, value: str | None) -> str | None:
        Part.of(value)
        return value


def files_of_all_parts(path: Path) -> list[Path]:
    """A file of the whole experiment and those of its parts, as far as there are any."""
    pattern = re.compile(rf"{re.escape(path.stem)}(\.\d+of\d+)?{re.escape(path.suffix)}")
    return sorted(found for found in path.parent.glob(f"{path.stem}*") if pattern.fullmatch(found.name))


@contextmanager
def folder_lock(folder: Path, accelerator: Accelerator, part: Part | None = None) -> Iterator[None]:
    """Keep other experiments out of a folder, except other parts of this one; the main process holds the lock.

    Raises:
        ConfigError: on every process, if another run holds it, or part of another division.
    """
    part = part or Part()
    with ExitStack() as stack:
        from_main(accelerator, lambda: stack.enter_context(_locked(folder, part)))
        yield


@contextmanager
def _locked(folder: Path, part: Part) -> Iterator[None]:
    with locked(folder, part.suffix):
        if part.suffix and is_locked(folder):
            raise ConfigError(f"another run is writing to {folder}: choose another --output")
        for path in folder.parent.glob(f".{glob.escape(folder.name)}.*of*.lock"):
            match = re.fullmatch(r"(\d+)of(\d+)", path.name[len(folder.name) + 2 : -len(".lock")])
            other = match and Part(int(match[1]), int(match[2]))
            if other and other.count != part.count and is_locked(folder, other.suffix):
                raise ConfigError(f"{other} is running in {folder}: wait until it ends")
        yield
