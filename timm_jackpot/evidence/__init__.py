"""Evidence: the figures of an audit, the verdict that follows from them, and its text. Runs no model."""

from timm_jackpot.evidence.bootstrap import paired_intervals
from timm_jackpot.evidence.interval import Interval
from timm_jackpot.evidence.read import AUDIT, read_audit
from timm_jackpot.evidence.report import (
    AUDIT_FORMAT,
    AuditData,
    AuditReport,
    LayerDensity,
    ModelResult,
    Overlap,
    SecondSearch,
    conclusions,
)
from timm_jackpot.evidence.section import audit_section, data_label, title_of, verdict_line
from timm_jackpot.evidence.verdict import (
    AUDIT_CONTROLS,
    AUDIT_MODELS,
    NON_TRIVIAL_PERCENT,
    Principle,
    answer_principles,
    verdict_of,
)

__all__ = [
    "AUDIT",
    "AUDIT_CONTROLS",
    "AUDIT_FORMAT",
    "AUDIT_MODELS",
    "NON_TRIVIAL_PERCENT",
    "AuditData",
    "AuditReport",
    "Interval",
    "LayerDensity",
    "ModelResult",
    "Overlap",
    "Principle",
    "SecondSearch",
    "answer_principles",
    "audit_section",
    "conclusions",
    "data_label",
    "paired_intervals",
    "read_audit",
    "title_of",
    "verdict_line",
    "verdict_of",
]
