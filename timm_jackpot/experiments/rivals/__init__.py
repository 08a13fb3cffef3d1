"""Rivals: methods side by side on real tasks, each tuned on validation images, over several seeds."""

from timm_jackpot.experiments.rivals.plan import RivalsConfig, RivalsPlan, plan_rivals
from timm_jackpot.experiments.rivals.run import RivalsResult, compare_rivals

__all__ = ["RivalsConfig", "RivalsPlan", "RivalsResult", "compare_rivals", "plan_rivals"]
