"""The flags that say which artifact is meant."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from timm_jackpot.schema import Command, Settings


class ArtifactFlags(Settings):
    """What verbs that build the base of an artifact share."""

    group: ClassVar[str] = "Model"

    artifact: str = Field(json_schema_extra={"positional": True})
    """An artifact folder, or the name of a Hub repo."""
    revision: str | None = None
    """Branch, tag or commit of the artifact's Hub repo."""
    base_checkpoint: str | None = None
    """A .safetensors file with the base's weights, where the artifact's base came from a file."""
    trust_base: bool = False
    """Build a base that the artifact names outside timm's own repos."""


class InspectConfig(Settings):
    """Show what is in an artifact: layers, sparsity, file sizes."""

    command: ClassVar[Command | None] = Command(
        "inspect", ("my_jackpot", "my_jackpot --verify", "user/name --json | jq .sparsity")
    )

    artifact: str = Field(json_schema_extra={"positional": True})
    """An artifact folder, or the name of a Hub repo."""
    revision: str | None = None
    """Branch, tag or commit of the Hub repo."""
    verify: bool = False
    """Also load the base, and check the masks against the recorded hash."""
    base_checkpoint: str | None = None
    """The base's .safetensors file, if --verify needs one."""
