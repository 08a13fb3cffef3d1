from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field, field_validator

from timm_jackpot.criteria import criterion_names
from timm_jackpot.methods import BudgetFlags, CoverFlags, ScoreSettings
from timm_jackpot.methods.budget import FILTERS
from timm_jackpot.schema import OneOf


class JackpotConfig(BudgetFlags, CoverFlags, ScoreSettings):
    """How to mask a model in your own training loop.

    Raises:
        ConfigError: for an unknown setting or a value outside its bounds.
    """

    criterion: Annotated[str, OneOf(partial(criterion_names, without_images=True))] = "magnitude"
    """Where the search starts from, of the criteria that need no images."""
    steps: int = Field(default=0, ge=0, le=10**9)
    """Optimizer steps of your loop, over which the sparsity rises. 0: the final sparsity holds from the start."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; stored with a new or trained head."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Random seed of criteria that draw."""

    @field_validator("allocation")
    @classmethod
    def _no_filters(cls, value: str) -> str:
        if value == FILTERS:
            raise ValueError(
                "whole filters, whose norms change with them, are for `search`: choose erk, global or uniform"
            )
        return value
