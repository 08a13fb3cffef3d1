from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from timm_jackpot.artifact import Artifact
from timm_jackpot.artifact.strict_json import parse_strict
from timm_jackpot.artifact.tensors_file import read_bytes
from timm_jackpot.errors import ArtifactError
from timm_jackpot.evidence.exports import ExportReport
from timm_jackpot.evidence.report import AuditReport
from timm_jackpot.schema import Document, fault_of

AUDIT = "audit.json"
EXPORT, EXPORTS = "export.json", "exports"  # a file, and the folder of an artifact with a folder of each format
_FOLDER = re.compile(r"[A-Za-z0-9_-]{1,60}")
_MAX_BYTES = 4 * 1024 * 1024
_Report = TypeVar("_Report", bound=Document)


def read_audit(artifact: Artifact) -> AuditReport | None:
    """The audit stored with an artifact; None if there is none (a symlink does not count).

    Raises:
        ArtifactError: if it is invalid, contradicts itself, or audits another mask.
    """
    path = artifact.folder / AUDIT
    if path.is_symlink() or not path.exists():
        return None
    report = _read(path, AUDIT, AuditReport)
    layers = [(layer.name, layer.kept, layer.total) for layer in report.layers]
    found = [(layer.name, layer.kept, layer.total) for layer in artifact.config.layers]
    if report.mask_hash != artifact.config.mask_hash or layers != found:
        raise ArtifactError(f"{AUDIT} audits a different mask: delete it, or audit this mask")
    return report


def read_audit_file(folder: Path) -> AuditReport:
    """The audit in any folder.

    Raises:
        ArtifactError: if there is none, or it is invalid or contradicts itself.
    """
    return _read(folder / AUDIT, AUDIT, AuditReport)


def export_files(artifact: Artifact) -> list[str]:
    """`exports/FORMAT/export.json` of an artifact, relative to its folder; nothing that is or lies behind a symlink."""
    paths = sorted(artifact.folder.glob(f"{EXPORTS}/*/{EXPORT}"))
    return [
        path.relative_to(artifact.folder).as_posix()
        for path in paths
        if _FOLDER.fullmatch(path.parent.name) and not any(part.is_symlink() for part in (path, *path.parents[:2]))
    ]


def read_exports(artifact: Artifact) -> list[ExportReport]:
    """What an artifact's exports run like.

    Raises:
        ArtifactError: if a report is invalid, or of another mask.
    """
    reports = []
    for name in export_files(artifact):
        report = _read(artifact.folder / name, name, ExportReport)
        if report.mask_hash != artifact.config.mask_hash:
            other = "of a different mask" if report.mask_hash else "of no mask by name"
            raise ArtifactError(f"{name} is {other}: delete its folder, and export this artifact")
        reports.append(report)
    return reports


def _read(path: Path, what: str, schema: type[_Report]) -> _Report:
    text = read_bytes(path, _MAX_BYTES)
    parse_strict(text, what, max_bytes=_MAX_BYTES)
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{what} is not valid {fault_of(error)}") from error
