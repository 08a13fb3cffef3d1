"""Methods: everything that turns a task and a budget into a (sparse) network. One registry, one file per method.

@register_method("rigl", family="sparse training", paper="arXiv:1911.11134")
def rigl(task: Task, budget: Budget, settings: RigLSettings) -> Outcome: ...
"""

from timm_jackpot.methods import controls, dense, mask_search, one_shot  # importing registers them
from timm_jackpot.methods.budget import Budget, BudgetFlags
from timm_jackpot.methods.controls import check_control
from timm_jackpot.methods.cover import CoverFlags, coverage_notice, find_maskable
from timm_jackpot.methods.equalise import equalise_gradients
from timm_jackpot.methods.mask_search import trained_parameters
from timm_jackpot.methods.one_shot import OneShotSettings, StatisticsSettings
from timm_jackpot.methods.registry import Method, all_methods, method, method_names, register_method, unregister_method
from timm_jackpot.methods.score_training import ScoreTraining
from timm_jackpot.methods.search_settings import PAPER, ScoreSettings, SearchSettings
from timm_jackpot.methods.start import Start, proportional_scores
from timm_jackpot.methods.task import ChangedTensor, Outcome, Role, Task, build_network, without_training

__all__ = [
    "PAPER",
    "Budget",
    "BudgetFlags",
    "ChangedTensor",
    "CoverFlags",
    "Method",
    "OneShotSettings",
    "Outcome",
    "Role",
    "ScoreSettings",
    "ScoreTraining",
    "SearchSettings",
    "Start",
    "StatisticsSettings",
    "Task",
    "all_methods",
    "build_network",
    "check_control",
    "controls",
    "coverage_notice",
    "dense",
    "equalise_gradients",
    "find_maskable",
    "mask_search",
    "method",
    "method_names",
    "one_shot",
    "proportional_scores",
    "register_method",
    "trained_parameters",
    "unregister_method",
    "without_training",
]
