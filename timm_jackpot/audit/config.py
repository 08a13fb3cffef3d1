from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from timm_jackpot.artifact import ArtifactFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.evidence import AUDIT_MODELS
from timm_jackpot.methods import method_names
from timm_jackpot.schema import Command, OneOf

_OF_ARTIFACTS = {"seeds", "beside", "revision", "base_checkpoint", "trust_base"}


class AuditConfig(ArtifactFlags, DataFlags):
    """Compare a jackpot, or trained tickets, with controls: does the mask deserve its accuracy? Data flags that are not
    given default to those of its search, but the data set and its splits are never taken from the artifact."""

    group: ClassVar[str] = "Options"
    command: ClassVar[Command | None] = Command(
        "audit",
        (
            "my_jackpot --seeds 3",
            "user/name --data-dir flowers --beside snip synflow --output audits/flowers",
            "--tickets sweeps/tickets --output audits/tickets    # no jackpot",
        ),
        basic=(
            *("artifact", "tickets", "pool", "seeds", "beside", "base_checkpoint"),
            *("dataset", "data_dir", "batch_size", "output"),
        ),
    )

    artifact: str | None = Field(default=None, json_schema_extra={"positional": True})  # pyright: ignore
    """An artifact folder, or the name of a Hub repo. Without one, --tickets are audited, or audits joined by --pool."""
    tickets: str | None = None
    """Folder of trained tickets, such as a sweep's over methods, learning rates and seeds. Beside an artifact, small
    dense networks and dense training from it are compared with the jackpot."""
    pool: tuple[str, ...] = ()
    """Folders of finished audits of one recipe whose test sets do not overlap, such as the folds of a small data set:
    one verdict over all images."""
    seeds: int = Field(default=3, ge=1, le=100)
    """Number of seeds for random controls and searches (two searches per seed)."""
    beside: tuple[Annotated[str, OneOf(method_names)], ...] = ()
    """Other methods to show next to the controls, with their default settings at the jackpot's sparsity, allocation
    and number of steps. After full_sgd or full_adamw, which fine-tune the base, the verdict asks whether the jackpot is
    similar to these networks too."""
    similar_margin: float | None = Field(default=None, ge=0, le=100)
    """Points below a dense network that still count as similar. Default: 1 (CIFAR-100, Tiny-ImageNet), 1.5 (ImageNet),
    0.5 (all other data)."""
    output: str | None = None
    """Folder for audit.json, audit.md, figures and predictions. Default: the artifact's folder, whose card is updated,
    or that of the tickets; --pool needs one."""

    @model_validator(mode="after")
    def _something_to_audit(self) -> Self:
        if self.pool:
            alone = self.model_fields_set <= {"pool", "output", "similar_margin"}
            if len(self.pool) < 2 or self.output is None or not alone:
                raise ConfigError("--pool takes two or more folders, and goes with --output and --similar-margin alone")
            return self
        if self.artifact is None and self.tickets is None:
            raise ConfigError(
                "name an artifact to audit, a folder of trained tickets (--tickets), or finished audits (--pool)"
            )
        if self.artifact is None and (idle := sorted(self.model_fields_set & _OF_ARTIFACTS)):
            raise ConfigError(f"--{idle[0].replace('_', '-')} goes with an artifact: tickets are audited as they are")
        return self

    @field_validator("beside")
    @classmethod
    def _new_rows(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in AUDIT_MODELS or names.count(name) > 1:
                raise ValueError(f"{name} is already a row of the audit: name each other method once")
        return names
