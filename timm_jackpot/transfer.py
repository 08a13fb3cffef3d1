"""`timm-jackpot transfer --recipe transfer_small --output FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.experiments.transfer import TransferConfig, transfer_masks


def main() -> dict[str, object]:
    result = transfer_masks(parse(TransferConfig))
    show(result.table)
    return result.summary


if __name__ == "__main__":
    run_verb(main)
