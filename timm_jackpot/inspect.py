"""`timm-jackpot inspect FOLDER`"""

from __future__ import annotations

from timm_jackpot.artifact import (
    InspectConfig,
    artifact_report,
    locate_artifact,
    open_artifact,
    read_artifact,
    report_table,
)
from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.errors import ConfigError


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
    show(report_table(report))
    return report


if __name__ == "__main__":
    run_verb(main)
