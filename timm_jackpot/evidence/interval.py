from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

Points = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Interval(BaseModel):
    """A figure in per cent, or a difference of two in points, with its 95 % confidence interval."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    value: Points
    low: Points
    high: Points

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError("a figure lies outside its interval")
        return self
