"""How many weights a method may keep, and how long it may train."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator
from torch import Tensor
from typing_extensions import Self

from timm_jackpot.masks import ALLOCATIONS, allocate, kept_filters, parse_overrides, parse_sparsity
from timm_jackpot.schema import Settings

FILTERS = "filters"


class BudgetFlags(Settings):
    """The fraction of weights to remove, and its allocation to layers."""

    group: ClassVar[str] = "Search"
    sparsity_words: ClassVar[tuple[str, ...]] = ()  # what else than a number a schema takes

    sparsity: str | float = "0.9"
    """Fraction of the maskable weights to remove, an exact decimal in [0, 1)."""
    allocation: str = "erk"
    """How the budget is allocated to layers: erk (by shape), global (one threshold for all) or uniform. Or a pattern:
    filters, which removes whole output channels, the same fraction from every layer; or N:M, such as 2:4, which keeps N
    of every M weights along the input channels and replaces --sparsity."""
    min_density: float = Field(default=0.0, ge=0, le=1)
    """Smallest fraction of its weights that a layer keeps."""
    layer_sparsity: tuple[str, ...] = ()
    """Sparsity of individual layers as pattern=value, e.g. 'layer1.*=0.5'; the others share the rest of the budget."""

    @model_validator(mode="before")
    @classmethod
    def _implied_sparsity(cls, values: Any) -> Any:
        """Fill in the sparsity that an N:M pattern implies."""
        default = cls.model_fields["allocation"].default  # a method may have another
        pattern = n_of_m(values.get("allocation", default)) if isinstance(values, dict) else None
        if pattern is None:
            return values
        n, m = pattern
        implied = str(Decimal(m - n) / m)
        given = str(values.get("sparsity", implied))
        conflict = next((key for key in ("layer_sparsity", "min_density") if values.get(key)), None)
        if conflict is None and not (re.fullmatch(r"[0-9.]+", given) and parse_sparsity(given) == Decimal(implied)):
            conflict = "sparsity"
        if conflict:
            flag = conflict.replace("_", "-")
            raise ValueError(f"--allocation {n}:{m} fixes the sparsity of every layer at {implied}: leave --{flag} out")
        return {**values, "sparsity": implied}

    @field_validator("allocation")
    @classmethod
    def _known_allocation(cls, value: str) -> str:
        if value in (*ALLOCATIONS, FILTERS) or n_of_m(value):
            return value
        raise ValueError(
            f"choose one of {', '.join(ALLOCATIONS)}, {FILTERS}, or N:M with M = 2, 4, 8, 16 or 32, such as 2:4"
        )

    @model_validator(mode="after")
    def _filters_are_shared_out_equally(self) -> Self:
        given = next((key for key in ("layer_sparsity", "min_density") if getattr(self, key)), None)
        if self.allocation == FILTERS and given:
            flag = given.replace("_", "-")
            raise ValueError(f"--allocation filters removes the same fraction from every layer: leave --{flag} out")
        return self

    @field_validator("sparsity", mode="before")
    @classmethod
    def _exact_decimal(cls, value: Any) -> Any:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return value if value in cls.sparsity_words else f"{parse_sparsity(value):f}"
        return value  # pydantic reports what is wrong


@dataclass(frozen=True)
class Budget:
    """Sparsity, its allocation, optimizer steps, and the random seed."""

    sparsity: str
    allocation: str
    steps: int
    seed: int
    min_density: float = 0.0
    layer_sparsity: tuple[str, ...] = ()
    kept: Mapping[str, int] | None = None  # exact counts that override all this: a control has those of its jackpot

    @classmethod
    def of(cls, flags: BudgetFlags, *, steps: int, seed: int) -> Budget:
        return cls(str(flags.sparsity), flags.allocation, steps, seed, flags.min_density, flags.layer_sparsity)

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """(2, 4) for the allocation 2:4; None for the others."""
        return n_of_m(self.allocation)

    @property
    def is_pattern(self) -> bool:
        """Whether masks have a pattern besides their counts: N:M or whole filters."""
        return self.kept is None and (self.allocation == FILTERS or self.n_of_m is not None)

    def counts(self, scores: Mapping[str, Tensor]) -> dict[str, int]:
        """How many weights each layer keeps, given a criterion's scores.

        Raises:
            ConfigError: for minimums, overrides or patterns that the layers cannot satisfy.
        """
        if self.kept is not None:
            return dict(self.kept)
        if self.n_of_m is not None:
            n, m = self.n_of_m
            return {name: values.numel() // m * n for name, values in scores.items()}
        if self.allocation == FILTERS:
            return {name: kept_filters(values.shape, self.sparsity) for name, values in scores.items()}
        # At least one weight per layer: a global threshold can empty a layer, which cuts a network without shortcuts.
        return allocate(
            self.allocation,
            scores,
            self.sparsity,
            minimum=1,
            min_density=self.min_density,
            overrides=parse_overrides(self.layer_sparsity, scores),
        )


def n_of_m(text: object) -> tuple[int, int] | None:
    """(2, 4) for "2:4"; None if `text` is not a pattern."""
    match = re.fullmatch(r"(\d+):(2|4|8|16|32)", text) if isinstance(text, str) else None
    pattern = (int(match[1]), int(match[2])) if match else None
    return pattern if pattern and 0 < pattern[0] < pattern[1] else None
