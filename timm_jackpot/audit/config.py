from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from timm_jackpot.artifact import ArtifactFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.evidence import AUDIT_MODELS
from timm_jackpot.methods import method_names
from timm_jackpot.schema import Command, OneOf


class AuditConfig(ArtifactFlags, DataFlags):
    """Compare a jackpot with its controls: does the mask deserve its accuracy? Data flags that are not given default
    to those of its search, but the data set and its splits are never taken from the artifact."""

    group: ClassVar[str] = "Options"
    command: ClassVar[Command | None] = Command(
        "audit",
        (
            "my_jackpot --seeds 3",
            "my_jackpot --beside snip synflow    # further methods in the table",
            "user/name --data-dir flowers --output audits/flowers",
        ),
        basic=("artifact", "seeds", "beside", "base_checkpoint", "dataset", "data_dir", "batch_size", "output"),
    )

    seeds: int = Field(default=3, ge=1, le=100)
    """Number of seeds for random controls and searches (two searches per seed)."""
    beside: tuple[Annotated[str, OneOf(method_names)], ...] = ()
    """Other methods to show next to the controls, with their default settings at the jackpot's sparsity, allocation
    and number of steps; the verdict does not depend on them."""
    similar_margin: float | None = Field(default=None, ge=0, le=100)
    """Points below the dense base that still count as similar. Default: 1 (CIFAR-100, Tiny-ImageNet), 1.5 (ImageNet),
    0.5 (all other data)."""
    output: str | None = None
    """Folder for audit.json, audit.md and figures. Default: the artifact's folder, whose card is updated."""

    @field_validator("beside")
    @classmethod
    def _new_rows(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in AUDIT_MODELS or names.count(name) > 1:
                raise ValueError(f"{name} is already a row of the audit: name each other method once")
        return names
