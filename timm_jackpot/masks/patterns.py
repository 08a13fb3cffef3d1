"""Shell patterns on weight names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a shell pattern matches, in order; upper and lower case differ."""
    return [name for name in names if fnmatchcase(name, pattern)]


def nearest(pattern: str, names: Iterable[str]) -> str:
    """For an error message: the names most like a pattern that matched none."""
    near = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.0)
    return f"the nearest are {', '.join(near)}" if near else "there is none"
