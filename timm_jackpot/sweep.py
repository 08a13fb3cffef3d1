"""`timm-jackpot sweep --recipe NAME --output FOLDER`"""

from __future__ import annotations

from pathlib import Path

from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.experiments.sweeps import SweepConfig, run_sweep


def main() -> dict[str, object]:
    summary = run_sweep(parse(SweepConfig))
    if "table" in summary:  # a part writes none
        show(Path(summary["table"]).read_text(encoding="utf-8"))
    return summary


if __name__ == "__main__":
    run_verb(main)
