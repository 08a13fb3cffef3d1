"""`timm-jackpot finetune FOLDER --output CHECKPOINT`"""

from __future__ import annotations

from timm_jackpot.cli import as_lines, parse, run_verb, show
from timm_jackpot.training.finetune import FinetuneConfig, finetune_jackpot


def main() -> dict[str, object]:
    summary = finetune_jackpot(parse(FinetuneConfig))
    show(as_lines(summary))
    return summary


if __name__ == "__main__":
    run_verb(main)
