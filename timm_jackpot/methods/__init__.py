"""Methods: everything that turns a task and a budget into a (sparse) network. One registry, one file per method.

@register_method("rigl", family="sparse training", paper="arXiv:1911.11134")
def rigl(task: Task, budget: Budget, settings: RigLSettings) -> Outcome: ...
"""

from timm_jackpot.methods import (  # importing registers them
    controls,
    dense,
    lora,
    mask_search,
    one_shot,
    piggyback,
    references,
    sparse,
    supermask,
    tickets,
)
from timm_jackpot.methods.budget import Budget, BudgetFlags, n_of_m
from timm_jackpot.methods.controls import check_control
from timm_jackpot.methods.cost import Cost, cost_of
from timm_jackpot.methods.cover import CoverFlags, coverage_notice, find_maskable
from timm_jackpot.methods.equalise import NEW_HEAD_RMS, equalise_gradients
from timm_jackpot.methods.fixed import FixedMaskSettings, under_masks
from timm_jackpot.methods.one_shot import OneShotSettings
from timm_jackpot.methods.registry import (
    Method,
    all_methods,
    jackpot_method_names,
    method,
    method_names,
    register_method,
    unregister_method,
)
from timm_jackpot.methods.score_training import ScoreTraining
from timm_jackpot.methods.search_settings import PAPER, ScoreSettings, SearchSettings
from timm_jackpot.methods.start import Start, proportional_scores
from timm_jackpot.methods.task import ChangedTensor, Outcome, Phase, Role, Task, build_network
from timm_jackpot.methods.train import AlongFlags, HeadFlags, trained_parameters

__all__ = [
    "NEW_HEAD_RMS",
    "PAPER",
    "AlongFlags",
    "Budget",
    "BudgetFlags",
    "ChangedTensor",
    "Cost",
    "CoverFlags",
    "FixedMaskSettings",
    "HeadFlags",
    "Method",
    "OneShotSettings",
    "Outcome",
    "Phase",
    "Role",
    "ScoreSettings",
    "ScoreTraining",
    "SearchSettings",
    "Start",
    "Task",
    "all_methods",
    "build_network",
    "check_control",
    "controls",
    "cost_of",
    "coverage_notice",
    "dense",
    "equalise_gradients",
    "find_maskable",
    "jackpot_method_names",
    "lora",
    "mask_search",
    "method",
    "method_names",
    "n_of_m",
    "one_shot",
    "piggyback",
    "proportional_scores",
    "references",
    "register_method",
    "sparse",
    "supermask",
    "tickets",
    "trained_parameters",
    "under_masks",
    "unregister_method",
]
