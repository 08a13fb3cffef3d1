"""Combine the settings of many runs from a recipe and flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm_jackpot.errors import ConfigError


def unreplaced(settings: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `by` does not override; steps and epochs override each other."""
    replaced = {*by, *(("steps", "epochs") if {"steps", "epochs"} & by.keys() else ())}
    return {key: value for key, value in settings.items() if key not in replaced}


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings; later layers win."""
    found: dict[str, Any] = {}
    for layer in layers:
        found = {**unreplaced(found, layer), **layer}
    return found


def key_value(text: str, flag: str) -> tuple[str, str]:
    """Split `name=value`.

    Raises:
        ConfigError: if the name or the value is missing.
    """
    key, _, value = text.partition("=")
    if not key or not value:
        raise ConfigError(f"{flag} takes name=value, not {text!r}")
    return key, value
