"""Where an audit's report goes: beside the artifact, with a fresh card, or into a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from timm_jackpot.artifact import read_artifact
from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evidence import AUDIT, AuditReport, audit_section, verdict_line
from timm_jackpot.hub import render_card
from timm_jackpot.plots import AUDIT_PICTURES, audit_figures
from timm_jackpot.runtime.outputs import check_output, write_atomically

_CARD, _PAGE = "README.md", "audit.md"


class Target(NamedTuple):
    folder: Path
    is_artifact: bool


def choose_target(config: AuditConfig) -> Target:
    """The folder for the report; refused before anything is loaded if nothing can be written there.

    Raises:
        ConfigError: if it cannot be written, or is not said for an artifact that is not local.
    """
    artifact = Path(config.artifact)
    if config.output is None and not os.path.isdir(artifact):
        raise ConfigError(f"{config.artifact} is no folder of this machine: say --output FOLDER for the report")
    folder = artifact if config.output is None else check_output(config.output)
    check_output(folder.resolve())  # --artifact . is a folder with a name
    return Target(folder, os.path.isdir(artifact) and folder.resolve() == artifact.resolve())


def write_report(report: AuditReport, target: Target) -> list[str]:
    """Write audit.json, pictures, and the card or a page, each file as a whole.

    Returns:
        What to tell people: where things are.

    Raises:
        ConfigError: if a file cannot be written.
    """
    pictures = audit_figures(report) if find_spec("matplotlib") else {}
    files: dict[str, bytes] = {**pictures, AUDIT: report.model_dump_json(indent=1).encode() + b"\n"}
    said = [f"audit: written to {target.folder}"]
    if not target.is_artifact:
        _write(target.folder, {**files, _PAGE: _page(report, tuple(pictures)).encode()})
        return said
    card = target.folder / _CARD
    untouched = not card.exists() or card.read_bytes() == _card_as_it_was(target.folder)
    _write(target.folder, files)
    if untouched:
        _write(target.folder, {_CARD: _card(target.folder).encode()})
    else:
        said.append(f"note: {_CARD} was edited, and is left as it is; a push renders it anew")
    return said


def _card(folder: Path) -> str:
    pictures = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.glob("plots/*.png")))
    return render_card(read_artifact(folder), pictures=pictures)


def _card_as_it_was(folder: Path) -> bytes | None:
    """What the template makes of the artifact before the audit; None where an earlier audit.json is not readable."""
    try:
        return _card(folder).encode()
    except ArtifactError:
        return None


def _page(report: AuditReport, pictures: tuple[str, ...]) -> str:
    shown = {name: AUDIT_PICTURES[name] for name in pictures}
    return (
        f"# Audit of a jackpot in {report.base}, sparsity {100 * report.sparsity:.2f} %\n\n"
        f"Mask `{report.mask_hash[:16]}…`, {report.seconds:.0f} s on {report.device}. Figures: `{AUDIT}`.\n\n"
        f"{verdict_line(report)}\n\n{audit_section(report, pictures=shown)}\n"
    )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write_atomically(folder / name, content)
