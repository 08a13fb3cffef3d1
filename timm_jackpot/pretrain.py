"""`timm-jackpot pretrain --recipe digits_pretrain --output FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import as_lines, parse, run_verb, show
from timm_jackpot.training.pretrain import PretrainConfig, pretrain_base


def main() -> dict[str, object]:
    summary = pretrain_base(parse(PretrainConfig))
    show(as_lines(summary))
    return summary


if __name__ == "__main__":
    run_verb(main)
