"""`python -m timm_jackpot.inspect --artifact FOLDER [--json]`"""

from __future__ import annotations

from pydantic import Field

from timm_jackpot.artifact import artifact_report, locate_artifact, open_artifact, read_artifact, report_table
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.errors import ConfigError
from timm_jackpot.schema import Settings


class InspectConfig(Settings):
    """What is in an artifact: layers, sparsity, bytes."""

    artifact: str
    """An artifact folder, or the name of a Hub repo."""
    revision: str | None = None
    """Branch, tag or commit of the Hub repo."""
    verify: bool = False
    """Load the base too: check that the masks are the recorded ones on it."""
    base_checkpoint: str | None = None
    """The base's .safetensors file, where --verify needs it."""
    only_json: bool = Field(default=False, json_schema_extra={"flags": ["--json"]})
    """Print nothing but the JSON line."""


def main() -> dict[str, object]:
    config = parse(InspectConfig)
    if config.verify:
        report = artifact_report(
            *open_artifact(config.artifact, base_checkpoint=config.base_checkpoint, revision=config.revision)
        )
    elif config.base_checkpoint:
        raise ConfigError("--base-checkpoint goes with --verify: nothing else needs the base here")
    else:
        report = artifact_report(read_artifact(locate_artifact(config.artifact, revision=config.revision)))
    if not config.only_json:
        print(report_table(report))
    return report


if __name__ == "__main__":
    run_verb(main)
