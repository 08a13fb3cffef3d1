"""What fixes a search: one flat, strict schema for flags, recipes and presets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from timm_jackpot.base import BaseFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.masks import parse_sparsity
from timm_jackpot.training import TrainFlags

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Lottery Jackpots (arXiv:2104.08700), Sec. 4.1 and the authors' code: two-level start, constant
        # sparsity, the mask renewed in every forward, plain cross-entropy.
        "paper": {
            "start": "two-level",
            "schedule": "constant",
            "refresh_interval": 1,
            "equalise_layers": False,
            "distill_weight": 0.0,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
        },
    }
)


class SearchConfig(BaseFlags, DataFlags, TrainFlags):
    """Settings of one search. Precedence: default < preset < recipe < flag."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    preset: Literal["default", "paper"] = "default"
    """default: the best search we know. paper: the seeds' own."""
    sparsity: str = "0.9"
    """Fraction of the maskable weights to remove, in [0, 1), read as an exact decimal."""
    criterion: Literal["magnitude", "random"] = "magnitude"
    """Where the search starts from."""
    allocation: Literal["global", "uniform", "erk"] = "global"
    """How the budget is shared out among layers."""
    include: tuple[str, ...] = ()
    """Shell patterns of weight names, as stages.3.*: mask these only."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of weight names to leave dense."""
    lr: float = Field(default=0.05, gt=0)
    """Peak learning rate; cosine to zero over the run."""
    mask_classifier: bool = False
    """Mask the classifier too; by default it stays dense, as in the reference."""
    start: Literal["proportional", "two-level"] = "proportional"
    """Initial scores: proportional to the criterion within each layer, or 1 (kept) and start-low (pruned)."""
    start_scale: float = Field(default=0.02, gt=0)
    """Root mean square of each layer's initial scores (start=proportional)."""
    start_low: float = Field(default=0.95, gt=0, lt=1)
    """Initial score of pruned weights (start=two-level)."""
    schedule: Literal["cubic", "constant"] = "cubic"
    """Sparsity over time: a cubic ramp from dense, or the final one throughout."""
    schedule_fraction: float = Field(default=0.6, ge=0, le=1)
    """Part of the run over which the cubic ramp reaches the final sparsity."""
    refresh_interval: int = Field(default=1, ge=1)
    """Steps between two recomputations of the masks from the scores."""
    equalise_layers: bool = True
    """Give the score gradients of all layers the same root mean square, so that all move at one pace."""
    distill_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of self-distillation from the dense base; the rest is cross-entropy. Off beside a new head."""
    temperature: float = Field(default=2.0, gt=0)
    """Temperature of the distillation."""
    output: str | None = None
    """Folder for the artefact. Default: a fresh one under runs/."""
    overwrite: bool = False
    """Replace an artefact that --output already holds."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_preset(cls, values: object) -> object:
        if isinstance(values, dict):
            return {**PRESETS.get(str(values.get("preset")), {}), **values}
        return values

    @field_validator("sparsity", mode="before")
    @classmethod
    def _exact_decimal(cls, value: object) -> str:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            parse_sparsity(value)
            return str(value)
        return value  # pyright: ignore[reportReturnType]  # pydantic says what is wrong with it
