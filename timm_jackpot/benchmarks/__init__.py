"""What the package costs beside doing without it: paired, interleaved, medians and spread."""

from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.benchmarks.run import rows_table, run_benchmarks

__all__ = ["BenchConfig", "rows_table", "run_benchmarks"]
