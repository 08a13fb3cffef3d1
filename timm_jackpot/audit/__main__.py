"""`timm-jackpot audit FOLDER --seeds 3`"""

from __future__ import annotations

from timm_jackpot.audit import AuditConfig, audit_jackpot
from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.evidence import audit_section, verdict_line


def main() -> dict[str, object]:
    report = audit_jackpot(parse(AuditConfig))
    show(f"{verdict_line(report)}\n\n{audit_section(report)}")
    return report.summary()


if __name__ == "__main__":
    run_verb(main)
