"""The settings of many runs, from a recipe and flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm_jackpot.errors import ConfigError


def unreplaced(settings: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that stand when `by` ranks above them; steps and epochs take each other's place too."""
    replaced = {*by, *(("steps", "epochs") if {"steps", "epochs"} & by.keys() else ())}
    return {key: value for key, value in settings.items() if key not in replaced}


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all layers; the later one wins."""
    found: dict[str, Any] = {}
    for layer in layers:
        found = {**unreplaced(found, layer), **layer}
    return found


def key_value(text: str, flag: str) -> tuple[str, str]:
    """The two sides of `name=value`.

    Raises:
        ConfigError: if one of them is missing.
    """
    key, _, value = text.partition("=")
    if not key or not value:
        raise ConfigError(f"{flag} takes name=value, not {text!r}")
    return key, value
