"""`python -m timm_jackpot.transfer --recipe transfer_small --output FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.experiments.transfer import TransferConfig, transfer_masks
from timm_jackpot.runtime.processes import launched_as_main


def main() -> dict[str, object]:
    result = transfer_masks(parse(TransferConfig))
    if launched_as_main():
        print(result.table)
    return result.summary


if __name__ == "__main__":
    run_verb(main)
