"""Check the config.json of a timm folder or Hub repo before timm reads it, because timm trusts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator
from timm.models import is_model

from timm_jackpot.base.ref import MAX_CHANS, MAX_CLASSES, MAX_PIXELS
from timm_jackpot.errors import BaseError
from timm_jackpot.schema import fault_of

_LONGEST_CONFIG = 16 * 2**20  # bytes: it may contain the names of all classes
_Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
_Chans = Annotated[int, Field(ge=1, le=MAX_CHANS)]


class _PretrainedConfig(BaseModel):
    """The fields of pretrained_cfg that we read, or that timm reads without checking."""

    architecture: str | None = None
    tag: str | None = None
    input_size: tuple[_Chans, _Pixels, _Pixels] = (3, 224, 224)
    mean: Annotated[tuple[float, ...], Field(max_length=MAX_CHANS)] | None = None
    std: Annotated[tuple[float, ...], Field(max_length=MAX_CHANS)] | None = None
    crop_pct: float | None = None


class _Config(BaseModel):
    """The same for config.json."""

    model_args: dict[str, Any] = {}
    pretrained_cfg: _PretrainedConfig = _PretrainedConfig()
    num_classes: int | None = Field(default=None, ge=0, le=MAX_CLASSES)

    @field_validator("model_args")
    @classmethod
    def _sizes(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, most in (("num_classes", MAX_CLASSES), ("in_chans", MAX_CHANS), ("img_size", MAX_PIXELS)):
            given = value.get(key)
            numbers = given if isinstance(given, list) and key == "img_size" else [given]
            if given is not None and not (numbers and all(type(n) is int and 0 <= n <= most for n in numbers)):
                raise ValueError(f"{key} must be an integer from 0 to {most}")
        return value


def read_saved_config(path: Path, where: str) -> tuple[str, str | None, dict[str, Any]]:
    """Architecture, tag and model arguments from a timm config.json; `where` names its source in errors.

    Raises:
        BaseError: if it is not a timm config, or has impossible values.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_CONFIG + 1)
        cfg = json.loads(content) if len(content) <= _LONGEST_CONFIG else None
    except (OSError, ValueError, RecursionError) as error:
        raise BaseError(f"{where} is not a timm model: its config.json cannot be read") from error
    architecture = cfg.get("architecture") if isinstance(cfg, dict) else None
    if not isinstance(architecture, str) or not is_model(architecture):
        raise BaseError(f"{where} is not a timm model: its config.json does not name a timm architecture")
    try:
        found = _Config.model_validate(cfg)
    except ValidationError as error:
        raise BaseError(f"the config.json of {where} is invalid {fault_of(error)}") from error
    return architecture, found.pretrained_cfg.tag, found.model_args
