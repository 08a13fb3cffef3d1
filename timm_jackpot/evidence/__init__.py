"""Evidence: the figures of an audit, the verdict that follows from them, and its text. Runs no model."""

from timm_jackpot.evidence.bootstrap import paired_intervals
from timm_jackpot.evidence.exports import ExportReport, Latency, Sizes, exports_section
from timm_jackpot.evidence.interval import Interval
from timm_jackpot.evidence.read import AUDIT, EXPORT, EXPORTS, export_files, read_audit, read_audit_file, read_exports
from timm_jackpot.evidence.report import (
    AUDIT_FORMAT,
    AuditData,
    AuditFindings,
    AuditReport,
    LayerDensity,
    ModelResult,
    Overlap,
    PooledReport,
    SecondSearch,
    conclusions,
)
from timm_jackpot.evidence.section import audit_section, data_label, pooled_section, title_of, verdict_line
from timm_jackpot.evidence.tickets import (
    TicketReport,
    TicketRow,
    plain_text,
    ticket_page,
    ticket_section,
    ticket_verdict_line,
)
from timm_jackpot.evidence.verdict import (
    AUDIT_CONTROLS,
    AUDIT_MODELS,
    DENSE_ROW,
    NON_TRIVIAL_PERCENT,
    SMALL_DENSE_ROW,
    Principle,
    answer_principles,
    similar_margin,
    verdict_of,
)

__all__ = [
    "AUDIT",
    "AUDIT_CONTROLS",
    "AUDIT_FORMAT",
    "AUDIT_MODELS",
    "DENSE_ROW",
    "EXPORT",
    "EXPORTS",
    "NON_TRIVIAL_PERCENT",
    "SMALL_DENSE_ROW",
    "AuditData",
    "AuditFindings",
    "AuditReport",
    "ExportReport",
    "Interval",
    "Latency",
    "LayerDensity",
    "ModelResult",
    "Overlap",
    "PooledReport",
    "Principle",
    "SecondSearch",
    "Sizes",
    "TicketReport",
    "TicketRow",
    "answer_principles",
    "audit_section",
    "conclusions",
    "data_label",
    "export_files",
    "exports_section",
    "paired_intervals",
    "plain_text",
    "pooled_section",
    "read_audit",
    "read_audit_file",
    "read_exports",
    "similar_margin",
    "ticket_page",
    "ticket_section",
    "ticket_verdict_line",
    "title_of",
    "verdict_line",
    "verdict_of",
]
