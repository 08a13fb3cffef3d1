"""Sweeps: one recipe over a grid of settings and seeds, summarized in tables and figures."""

from timm_jackpot.experiments.sweeps.plan import GridPoint, SweepConfig, plan_grid
from timm_jackpot.experiments.sweeps.run import run_sweep

__all__ = ["GridPoint", "SweepConfig", "plan_grid", "run_sweep"]
