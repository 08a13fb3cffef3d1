"""`python -m timm_jackpot.inspect --artefact FOLDER [--json]`"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from timm_jackpot.artefact import artefact_report, locate_artefact, read_artefact, report_table
from timm_jackpot.cli import parse, run_verb


class InspectConfig(BaseModel):
    """What is in an artefact: layers, sparsity, bytes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    artefact: str
    """An artefact folder, or the name of a Hub repo."""
    revision: str | None = None
    """Branch, tag or commit of the Hub repo."""
    only_json: bool = Field(default=False, json_schema_extra={"flags": ["--json"]})
    """Print nothing but the JSON line."""


def main() -> dict[str, object]:
    config = parse(InspectConfig)
    report = artefact_report(read_artefact(locate_artefact(config.artefact, revision=config.revision)))
    if not config.only_json:
        print(report_table(report))
    return report


if __name__ == "__main__":
    run_verb(main)
