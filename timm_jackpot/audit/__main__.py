"""`python -m timm_jackpot.audit --artifact FOLDER --seeds 3`"""

from __future__ import annotations

from timm_jackpot.audit import AuditConfig, audit_jackpot
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.evidence import audit_section, verdict_line
from timm_jackpot.runtime.processes import launched_as_main


def main() -> dict[str, object]:
    report = audit_jackpot(parse(AuditConfig))
    if launched_as_main():
        print(f"{verdict_line(report)}\n\n{audit_section(report)}")
    return report.summary()


if __name__ == "__main__":
    run_verb(main)
