from __future__ import annotations

from pydantic import ValidationError

from timm_jackpot.artifact import Artifact
from timm_jackpot.artifact.strict_json import parse_strict
from timm_jackpot.artifact.tensors_file import read_bytes
from timm_jackpot.errors import ArtifactError
from timm_jackpot.evidence.report import AuditReport
from timm_jackpot.schema import fault_of

AUDIT = "audit.json"
_MAX_BYTES = 4 * 1024 * 1024


def read_audit(artifact: Artifact) -> AuditReport | None:
    """The audit stored with an artifact; None if there is none (a symlink does not count).

    Raises:
        ArtifactError: if it is invalid, contradicts itself, or audits another mask.
    """
    path = artifact.folder / AUDIT
    if path.is_symlink() or not path.exists():
        return None
    text = read_bytes(path, _MAX_BYTES)
    parse_strict(text, AUDIT, max_bytes=_MAX_BYTES)
    try:
        report = AuditReport.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{AUDIT} is not valid {fault_of(error)}") from error
    layers = [(layer.name, layer.kept, layer.total) for layer in report.layers]
    found = [(layer.name, layer.kept, layer.total) for layer in artifact.config.layers]
    if report.mask_hash != artifact.config.mask_hash or layers != found:
        raise ArtifactError(f"{AUDIT} audits a different mask: delete it, or audit this mask")
    return report
