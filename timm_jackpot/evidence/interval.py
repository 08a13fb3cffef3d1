from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from typing_extensions import Self

from timm_jackpot.schema import Document

Points = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Interval(Document):
    """A figure in percent, or a difference in points, with its 95 % confidence interval."""

    value: Points
    low: Points
    high: Points

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError("a figure lies outside its interval")
        return self

    def negated(self) -> Interval:
        return Interval(value=0 - self.value, low=0 - self.high, high=0 - self.low)  # 0 stays 0, not −0
