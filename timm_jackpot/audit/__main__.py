"""`timm-jackpot audit FOLDER --seeds 3`"""

from __future__ import annotations

from timm_jackpot.audit import AuditConfig, audit_jackpot, audit_tickets, pool_audits
from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.evidence import audit_section, pooled_section, ticket_section, ticket_verdict_line, verdict_line


def main() -> dict[str, object]:
    config = parse(AuditConfig)
    if config.pool:
        pooled = pool_audits(config)
        show(f"{verdict_line(pooled)}\n\n{pooled_section(pooled)}")
        return pooled.summary()
    if config.artifact is None:
        tickets = audit_tickets(config)
        show(f"{ticket_verdict_line(tickets)}\n\n{ticket_section(tickets)}")
        return tickets.summary()
    report = audit_jackpot(config)
    show(f"{verdict_line(report)}\n\n{audit_section(report)}")
    return report.summary()


if __name__ == "__main__":
    run_verb(main)
