"""`python -m timm_jackpot.inspect --artifact FOLDER [--json]`"""

from __future__ import annotations

from pydantic import Field

from timm_jackpot.artifact import artifact_report, locate_artifact, open_artifact, read_artifact, report_table
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.errors import ConfigError
from timm_jackpot.schema import Settings


class InspectConfig(Settings):
    """Show what is in an artifact: layers, sparsity, file sizes."""

    artifact: str
    """An artifact folder, or the name of a Hub repo."""
    revision: str | None = None
    """Branch, tag or commit of the Hub repo."""
    verify: bool = False
    """Also load the base, and check the masks against the recorded hash."""
    base_checkpoint: str | None = None
    """The base's .safetensors file, if --verify needs one."""
    only_json: bool = Field(default=False, json_schema_extra={"flags": ["--json"]})
    """Print only the JSON line."""


def main() -> dict[str, object]:
    config = parse(InspectConfig)
    if config.verify:
        report = artifact_report(
            *open_artifact(config.artifact, base_checkpoint=config.base_checkpoint, revision=config.revision)
        )
    elif config.base_checkpoint:
        raise ConfigError("--base-checkpoint needs --verify: without it the base is not loaded")
    else:
        report = artifact_report(read_artifact(locate_artifact(config.artifact, revision=config.revision)))
    if not config.only_json:
        print(report_table(report))
    return report


if __name__ == "__main__":
    run_verb(main)
