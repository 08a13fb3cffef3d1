"""Audit: compare a jackpot with its controls, and reach a verdict."""

from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.run import audit_jackpot
from timm_jackpot.evidence import AuditReport

__all__ = ["AuditConfig", "AuditReport", "audit_jackpot"]
