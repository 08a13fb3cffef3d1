from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from timm_jackpot.artifact import ArtifactFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.evidence import AUDIT_MODELS
from timm_jackpot.methods import method_names
from timm_jackpot.schema import Command, OneOf


class AuditConfig(ArtifactFlags, DataFlags):
    """A jackpot beside its controls: is the mask worth what its card says? Data flags that are not given are the
    search's own; which data and splits are meant is never taken from the artifact."""

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
    """Seeds of every control that is drawn, and of both kinds of searches (each costs two searches)."""
    beside: tuple[Annotated[str, OneOf(method_names)], ...] = ()
    """Further methods to show beside the controls, with their default settings at the jackpot's sparsity, allocation
    and steps; the verdict does not depend on them."""
    similar_margin: float | None = Field(default=None, ge=0, le=100)
    """Points behind the dense base that still count as similar. Default: 0.5 (CIFAR-10 and data without a margin of
    their own), 1 (CIFAR-100, Tiny-ImageNet), 1.5 (ImageNet)."""
    output: str | None = None
    """Folder for audit.json, audit.md and pictures. Default: the artifact's own, whose card is rendered anew."""

    @field_validator("beside")
    @classmethod
    def _new_rows(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in AUDIT_MODELS or names.count(name) > 1:
                raise ValueError(f"{name} is a row of the audit already: name each further method once")
        return names
