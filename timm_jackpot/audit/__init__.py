"""Audit: compare a jackpot or a trained ticket with its controls, and reach a verdict."""

from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.pool import pool_audits
from timm_jackpot.audit.run import audit_jackpot
from timm_jackpot.audit.tickets import audit_tickets
from timm_jackpot.evidence import AuditReport, PooledReport, TicketReport

__all__ = [
    "AuditConfig",
    "AuditReport",
    "PooledReport",
    "TicketReport",
    "audit_jackpot",
    "audit_tickets",
    "pool_audits",
]
