"""`timm-jackpot compare A B [--criteria magnitude random] [--output FOLDER]`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.experiments.comparison import CompareConfig, compare_masks


def main() -> dict[str, object]:
    comparison = compare_masks(parse(CompareConfig))
    show(comparison.table)
    return comparison.summary


if __name__ == "__main__":
    run_verb(main)
