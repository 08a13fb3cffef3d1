"""`timm-jackpot bench --what load --models resnet50`"""

from __future__ import annotations

from timm_jackpot.benchmarks import BenchConfig, rows_table, run_benchmarks
from timm_jackpot.cli import parse, run_verb, show


def main() -> dict[str, object]:
    rows = run_benchmarks(parse(BenchConfig))
    show(rows_table(rows))
    return {"rows": rows}


if __name__ == "__main__":
    run_verb(main)
