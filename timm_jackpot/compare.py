"""`python -m timm_jackpot.compare A B [--criteria magnitude random] [--output FOLDER]`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.experiments.comparison import CompareConfig, compare_masks
from timm_jackpot.runtime.processes import launched_as_main


def main() -> dict[str, object]:
    comparison = compare_masks(parse(CompareConfig))
    if launched_as_main():
        print(comparison.table)
    return comparison.summary


if __name__ == "__main__":
    run_verb(main)
