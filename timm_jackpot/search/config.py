"""What fixes a run: one flat, strict schema for flags, recipes and presets, with the settings of its method."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator
from typing_extensions import Self

from timm_jackpot.artifact import Encoding
from timm_jackpot.base import BaseFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.methods import PAPER, BudgetFlags, SearchSettings, method, method_names
from timm_jackpot.schema import OneOf
from timm_jackpot.training import RunFlags

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"paper": PAPER})


class RunConfig(BaseFlags, DataFlags, BudgetFlags, RunFlags):
    """Settings of one run: base, data, budget, method, and where the result goes."""

    method: Annotated[str, OneOf(method_names)] = "search"
    """What finds the mask; `python -m timm_jackpot.methods` says more of each."""
    pretrained: bool = True
    """Search in the pre-trained weights; --no-pretrained: in random ones, saved beside the artifact (a control)."""
    stratify: bool = True
    """Spread every class evenly over the training batches (of all processes together) of in-memory images."""
    strict: bool = False
    """Make an error of what would be left out with a notice: layers that an N:M pattern does not fit, images that
    cannot be read."""
    include: tuple[str, ...] = ()
    """Shell patterns of weight names, as stages.3.*: mask these only."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of weight names to leave dense."""
    mask_classifier: bool = False
    """Mask the classifier too; by default it stays dense, as in the paper."""
    output: str | None = None
    """Folder for the artifact. Default: a fresh one under runs/."""
    encoding: Encoding = "packed"
    """How the masks are stored: packed (one bit per weight), or compact (a quarter of that, read beside the base)."""
    overwrite: bool = False
    """Replace an artifact that --output already holds."""
    checkpoint_steps: int = Field(default=0, ge=0, le=10**9)
    """Steps between two checkpoints in the output folder; 0: only after the last step, or where a signal stops it."""
    resume: str | None = None
    """Go on with a stopped run: auto (the newest checkpoint of --output, if there is one) or a checkpoint's path."""

    @model_validator(mode="after")
    def _settings_are_the_methods(self) -> Self:
        if not isinstance(self, method(self.method).settings):
            raise ConfigError(f"{self.method} has other settings: in Python, config_of({self.method!r}) is their class")
        return self


class SearchConfig(RunConfig, SearchSettings):
    """Settings of one search. Precedence: default < preset < recipe < flag."""

    preset: Literal["default", "paper"] = "default"
    """default: the best search we know. paper: the paper's own."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        return {**PRESETS.get(str(values.get("preset")), {}), **values} if isinstance(values, dict) else values


def config_of(name: str) -> type[RunConfig]:
    """The settings of a run by the method of that name.

    Raises:
        ConfigError: if there is none.
    """
    return SearchConfig if name == "search" else _config_class(name, method(name).function)


@cache
def _config_class(name: str, _: Callable[..., Any]) -> type[RunConfig]:
    """One class for each method that was ever registered: settings of two classes are never equal."""
    found = method(name)
    fields: dict[str, Any] = {}
    known = {**RunConfig.model_fields, **found.settings.model_fields}
    for key, value in {"method": name, **found.defaults}.items():
        field = copy.copy(known[key])
        field.default = value
        fields[key] = (field.annotation, field)
    title = "".join(word.capitalize() for word in name.split("_"))
    made: type[RunConfig] = create_model(  # pyright: ignore[reportAssignmentType]
        f"{title}Config", __base__=(RunConfig, found.settings), __doc__=found.summary, **fields
    )
    return made


def config_from(settings: Mapping[str, Any]) -> RunConfig:
    """A run's settings from a mapping, which may name the method.

    Raises:
        ConfigError: for an unknown method or setting, or a value outside its bounds.
    """
    return config_of(str(settings.get("method", "search")))(**settings)
