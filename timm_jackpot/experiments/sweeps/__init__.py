"""Sweeps: one recipe over a grid of settings and seeds, into one table and one picture."""

from timm_jackpot.experiments.sweeps.plan import Cell, SweepConfig, plan_cells
from timm_jackpot.experiments.sweeps.run import run_sweep

__all__ = ["Cell", "SweepConfig", "plan_cells", "run_sweep"]
