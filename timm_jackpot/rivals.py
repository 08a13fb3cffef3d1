"""`timm-jackpot rivals --recipe adapters_small --output FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.experiments.rivals import RivalsConfig, compare_rivals


def main() -> dict[str, object]:
    result = compare_rivals(parse(RivalsConfig))
    show(result.table)
    return result.summary


if __name__ == "__main__":
    run_verb(main)
