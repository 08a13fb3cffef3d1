"""Write an audit's report: into the artifact's folder, with an updated card, or into another folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from timm_jackpot.artifact import read_artifact
from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.predictions import PREDICTIONS, AuditPredictions
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evidence import (
    AUDIT,
    AuditReport,
    PooledReport,
    TicketReport,
    audit_section,
    pooled_section,
    ticket_page,
    verdict_line,
)
from timm_jackpot.hub import render_card
from timm_jackpot.plots import AUDIT_PICTURES, audit_figures
from timm_jackpot.runtime.outputs import check_output, write_atomically

_CARD, _PAGE = "README.md", "audit.md"


class Target(NamedTuple):
    folder: Path
    is_artifact: bool


def choose_target(config: AuditConfig) -> Target:
    """The folder for the report, checked before anything is loaded.

    Raises:
        ConfigError: if it cannot be written to, or is missing for an artifact that is not local.
    """
    artifact = Path(str(config.artifact))
    if config.output is None and not os.path.isdir(artifact):
        raise ConfigError(f"{config.artifact} is not a local folder: choose one for the report with --output FOLDER")
    folder = artifact if config.output is None else check_output(config.output)
    check_output(folder.resolve())  # --artifact . has no name before it is resolved
    return Target(folder, os.path.isdir(artifact) and folder.resolve() == artifact.resolve())


def write_report(report: AuditReport, predictions: AuditPredictions, target: Target) -> list[str]:
    """Write audit.json, predictions, figures, and the card or a page; each file atomically.

    Returns:
        Messages for the user.

    Raises:
        ConfigError: if a file cannot be written.
    """
    pictures = audit_figures(report) if find_spec("matplotlib") else {}
    files: dict[str, bytes] = {
        **pictures,
        PREDICTIONS: predictions.model_dump_json(indent=1).encode() + b"\n",
        AUDIT: report.model_dump_json(indent=1).encode() + b"\n",
    }
    messages = [f"audit: written to {target.folder}"]
    if not target.is_artifact:
        _write(target.folder, {**files, _PAGE: _page(report, tuple(pictures)).encode()})
        return messages
    card = target.folder / _CARD
    untouched = not card.exists() or card.read_bytes() == _card_as_it_was(target.folder)
    _write(target.folder, files)
    if untouched:
        _write(target.folder, {_CARD: _card(target.folder).encode()})
    else:
        messages.append(f"note: {_CARD} was edited by hand and was not updated; a push renders a new one")
    return messages


def write_ticket_report(report: TicketReport, folder: Path) -> None:
    """Write audit.json and audit.md.

    Raises:
        ConfigError: if a file cannot be written.
    """
    text = report.model_dump_json(indent=1).encode() + b"\n"
    _write(folder, {AUDIT: text, _PAGE: ticket_page(report).encode()})


def write_pooled_report(report: PooledReport, folder: Path) -> None:
    """Write audit.json and audit.md.

    Raises:
        ConfigError: if a file cannot be written.
    """
    text = report.model_dump_json(indent=1).encode() + b"\n"
    page = (
        f"# {len(report.folds)} audits of one recipe, sparsity {100 * report.sparsity:.2f} %\n\n"
        f"{verdict_line(report)}\n\n{pooled_section(report)}\n"
    )
    _write(folder, {AUDIT: text, _PAGE: page.encode()})


def _card(folder: Path) -> str:
    pictures = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.glob("plots/*.png")))
    return render_card(read_artifact(folder), pictures=pictures)


def _card_as_it_was(folder: Path) -> bytes | None:
    """The card rendered without the new audit; None if an earlier audit.json cannot be read."""
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
