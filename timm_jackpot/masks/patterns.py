"""Shell patterns for weight names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that match a shell pattern, in order; case-sensitive."""
    return [name for name in names if fnmatchcase(name, pattern)]


def nearest(pattern: str, names: Iterable[str]) -> str:
    """For an error message: the names closest to a pattern that matched none of them."""
    near = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.0)
    return f"the nearest are {', '.join(near)}" if near else "there are none"
