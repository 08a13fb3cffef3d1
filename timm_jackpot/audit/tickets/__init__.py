"""Audits of trained tickets, and trained networks in the audit of a jackpot."""

from timm_jackpot.audit.tickets.rows import trained_rows
from timm_jackpot.audit.tickets.run import audit_tickets

__all__ = ["audit_tickets", "trained_rows"]
