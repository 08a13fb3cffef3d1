"""A run's settings: one flat, strict schema for flags, recipes and presets, including the settings of its method."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import timm
from pydantic import create_model, model_validator
from typing_extensions import Self

from timm_jackpot.artifact import Encoding, ExtrasDtype
from timm_jackpot.base import BaseFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.methods import (
    PAPER,
    BudgetFlags,
    CoverFlags,
    SearchSettings,
    jackpot_method_names,
    method,
    method_names,
)
from timm_jackpot.methods.budget import FILTERS, n_of_m
from timm_jackpot.schema import Command, OneOf
from timm_jackpot.training import OutputFlags, RunFlags

AUTO = "auto"
_FILTER_BATCHES = 40  # a filter that comes or goes moves the statistics behind it too fast for moving averages
NEW_HEAD_SPARSITY = "0.5"  # what speaks for it: hubcards/RESULTS.md, "What was chosen for a new head"
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"paper": PAPER})


class ArtifactOutputFlags(OutputFlags):
    """Where a run keeps its artifact, and how it goes on when it was stopped."""

    group: ClassVar[str] = "Output"

    encoding: Encoding = "packed"
    """How to store the masks: packed (one bit per weight), or compact (about a quarter of that; reading it needs the
    base)."""
    extras_dtype: ExtrasDtype = "float32"
    """How to store norm statistics, norms and head: float32 loses nothing, float16 and bfloat16 halve the bytes; int8
    stores the head's matrix in a quarter of them and the rest as float16. Accuracy is measured on what is stored."""


class RunConfig(BaseFlags, DataFlags, BudgetFlags, CoverFlags, RunFlags, ArtifactOutputFlags):
    """Settings of one run: base, data, budget, method, and where the result goes."""

    group: ClassVar[str] = "Search"
    command: ClassVar[Command | None] = Command(
        "search",
        (
            "--model resnet50 --sparsity 0.9",
            "--model resnet50 --data-dir flowers --num-classes 102 --output my_jackpot",
            "--recipe digits --seed 1    # a recipe that comes with the package",
        ),
        basic=(
            *("model", "num_classes", "base_checkpoint", "dataset", "data_dir", "batch_size"),
            *("sparsity", "allocation", "method", "preset"),
            *("steps", "epochs", "lr", "seed", "output", "overwrite", "resume"),
        ),
        recipes=True,
    )

    sparsity_words: ClassVar[tuple[str, ...]] = (AUTO,)

    sparsity: str | float = "0.9"
    """Fraction of the maskable weights to remove, an exact decimal in [0, 1); with a new head 0.5 is the default. auto:
    the best of 0.3, 0.5, 0.7, 0.9 on held-out images, tried in half of the steps."""
    method: Annotated[str, OneOf(method_names, listed=jackpot_method_names)] = "search"
    """How the mask is found; see `timm-jackpot methods`. Methods that train weights leave a ticket."""
    pretrained: bool = True
    """Search in the pre-trained weights. With --no-pretrained, in random weights (a control), which are saved next to
    the artifact."""
    stratify: bool = True
    """Spread each class evenly over the training batches of all processes; images in memory only."""
    plan: bool = False
    """Only say what this search would take: steps, hours, memory and bytes, from a few steps on random weights and
    images. No weights are loaded, nothing is written."""
    strict: bool = False
    """Fail where a notice would be printed otherwise: on layers that an N:M pattern does not fit, and on images that
    cannot be read."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_with_a_new_head(cls, values: Any) -> Any:
        """Near 50 % a mask carries the most information, one bit a weight; 90 % is for the task of the base."""
        if not isinstance(values, dict) or not has_new_head(values):
            return values
        chosen = {"sparsity": values.get("sparsity"), "allocation": n_of_m(values.get("allocation"))}
        own = cls.model_fields["sparsity"].default != RunConfig.model_fields["sparsity"].default
        if own or any(value is not None for value in chosen.values()):
            return values
        return {**values, "sparsity": NEW_HEAD_SPARSITY}

    @model_validator(mode="after")
    def _settings_are_the_methods(self) -> Self:
        if not isinstance(self, method(self.method).settings):
            raise ConfigError(
                f"{type(self).__name__} does not have the settings of the method {self.method}: use "
                f"config_of({self.method!r})"
            )
        return self


def has_new_head(values: Mapping[str, Any]) -> bool:
    """Whether settings ask for other classes than those that timm knows for the model."""
    if values.get("num_classes") is None:
        return False
    model = values.get("model", RunConfig.model_fields["model"].default)
    known = timm.get_pretrained_cfg(model) if isinstance(model, str) else None
    return known is None or known.num_classes != values["num_classes"]


class SearchConfig(RunConfig, SearchSettings):
    """Find a jackpot: a mask over the frozen weights of a pre-trained model."""

    preset: Literal["default", "paper"] = "default"
    """default: the best search we know; paper: the paper's own search."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        whole_filters = {"recalibrate_batches": _FILTER_BATCHES} if values.get("allocation") == FILTERS else {}
        return {**whole_filters, **PRESETS.get(str(values.get("preset")), {}), **values}


def config_of(name: str) -> type[RunConfig]:
    """The class of a run's settings for the method of that name.

    Raises:
        ConfigError: if there is no such method.
    """
    return SearchConfig if name == "search" else _config_class(name, method(name).function)


@cache
def _config_class(name: str, _: Callable[..., Any]) -> type[RunConfig]:
    """Cached, so that each method has one class: settings of different classes are never equal."""
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
    """A run's settings from a mapping, which may name the method (default: search).

    Raises:
        ConfigError: for an unknown method or setting, or a value outside its bounds.
    """
    return config_of(str(settings.get("method", "search")))(**settings)
