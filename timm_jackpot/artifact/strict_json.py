"""Untrusted JSON: bounded in size, depth, items and digits, no duplicate keys, no NaN."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, NoReturn

from timm_jackpot.errors import ArtifactError

MAX_DEPTH = 8
_MAX_DIGITS = 40
_MAX_KEYS = 10_000  # per object
_MAX_ITEMS = 250_000  # in total: each "[]," takes some hundred bytes in memory, and as many again when validated


def parse_strict(text: bytes, what: str, *, max_bytes: int) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ArtifactError: for anything but a plain, well-formed object within the limits.
    """
    if len(text) > max_bytes:
        raise ArtifactError(f"{what} is larger than {max_bytes} bytes")
    if sum(map(text.count, (b",", b"[", b"{"))) > _MAX_ITEMS:
        raise ArtifactError(f"{what} holds more than {_MAX_ITEMS} items")

    def refuse(reason: str) -> NoReturn:
        raise ArtifactError(f"{what} {reason}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(items) > _MAX_KEYS:
            refuse(f"holds an object of more than {_MAX_KEYS} keys")
        result = dict(items)
        if len(result) != len(items):
            refuse("repeats a key")
        return result

    def short(digits: str) -> str:
        return digits if len(digits) <= _MAX_DIGITS else refuse("holds a number with too many digits")

    def whole(digits: str) -> int:
        return int(short(digits))

    def real(digits: str) -> float:
        value = float(short(digits))
        return value if isfinite(value) else refuse("holds a number that is not finite")

    def constant(word: str) -> NoReturn:
        refuse(f"holds {word}, which is not JSON")

    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=whole,
            parse_float=real,
            parse_constant=constant,
        )
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not valid JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        refuse("is not a JSON object")
    if _deeper_than(value, MAX_DEPTH):
        refuse(f"is nested more than {MAX_DEPTH} levels deep")
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    if depth == 0:
        return True
    return any(_deeper_than(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value))
