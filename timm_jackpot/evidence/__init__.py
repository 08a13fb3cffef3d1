"""Evidence: what an audit measured, as numbers, what follows from them, and how that is told. Runs no model."""

from timm_jackpot.evidence.bootstrap import paired_intervals
from timm_jackpot.evidence.interval import Interval
from timm_jackpot.evidence.read import AUDIT, read_audit
from timm_jackpot.evidence.report import (
    FORMAT,
    AuditReport,
    LayerDensity,
    Measured,
    Overlap,
    SecondSearch,
    Tested,
    judged,
)
from timm_jackpot.evidence.section import audit_section, data_label, title_of, verdict_line
from timm_jackpot.evidence.verdict import CONTROLS, MODELS, Principle, answer_principles, verdict_of

__all__ = [
    "AUDIT",
    "CONTROLS",
    "FORMAT",
    "MODELS",
    "AuditReport",
    "Interval",
    "LayerDensity",
    "Measured",
    "Overlap",
    "Principle",
    "SecondSearch",
    "Tested",
    "answer_principles",
    "audit_section",
    "data_label",
    "judged",
    "paired_intervals",
    "read_audit",
    "title_of",
    "verdict_line",
    "verdict_of",
]
