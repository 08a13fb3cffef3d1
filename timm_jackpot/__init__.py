"""timm_jackpot: search, save, share and load binary masks over frozen pre-trained timm models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timm_jackpot.adapter import ScoreAdapter as ScoreAdapter
    from timm_jackpot.adapter import adapter_of as adapter_of
    from timm_jackpot.adapter import attach as attach
    from timm_jackpot.adapter import detach as detach
    from timm_jackpot.adapter import merge as merge
    from timm_jackpot.adapter import zero_fractions as zero_fractions
    from timm_jackpot.artifact import Jackpot as Jackpot
    from timm_jackpot.artifact import from_pretrained as from_pretrained
    from timm_jackpot.artifact import save_pretrained as save_pretrained
    from timm_jackpot.artifact import transform_of as transform_of
    from timm_jackpot.audit import AuditConfig as AuditConfig
    from timm_jackpot.audit import AuditReport as AuditReport
    from timm_jackpot.audit import audit_jackpot as audit_jackpot
    from timm_jackpot.base import base_from_module as base_from_module
    from timm_jackpot.base import load_base as load_base
    from timm_jackpot.base import maskable_weights as maskable_weights
    from timm_jackpot.errors import JackpotError as JackpotError
    from timm_jackpot.evaluation.images import predict as predict
    from timm_jackpot.export import export_jackpot as export_jackpot
    from timm_jackpot.export import load_exported as load_exported
    from timm_jackpot.hub import push_to_hub as push_to_hub
    from timm_jackpot.masks import MaskSet as MaskSet
    from timm_jackpot.masks import allocate as allocate
    from timm_jackpot.masks import layer_overlaps as layer_overlaps
    from timm_jackpot.masks import mask_overlap as mask_overlap
    from timm_jackpot.masks import scale_counts as scale_counts
    from timm_jackpot.methods import Budget as Budget
    from timm_jackpot.methods import Outcome as Outcome
    from timm_jackpot.methods import Task as Task
    from timm_jackpot.methods import equalise_gradients as equalise_gradients
    from timm_jackpot.methods import proportional_scores as proportional_scores
    from timm_jackpot.methods import register_method as register_method
    from timm_jackpot.own_loop import JackpotConfig as JackpotConfig
    from timm_jackpot.own_loop import TrainableJackpot as TrainableJackpot
    from timm_jackpot.own_loop import get_jackpot_model as get_jackpot_model
    from timm_jackpot.search import SearchConfig as SearchConfig
    from timm_jackpot.search import SearchResult as SearchResult
    from timm_jackpot.search import config_of as config_of
    from timm_jackpot.search import search_jackpot as search_jackpot
    from timm_jackpot.search import train_ticket as train_ticket
    from timm_jackpot.serving import JackpotModel as JackpotModel
    from timm_jackpot.training import cubic_ramp as cubic_ramp
    from timm_jackpot.training import reestimate_norm_statistics as reestimate_norm_statistics

__version__ = "0.1.0"

# Loaded on first use: `timm-jackpot --help` needs neither torch nor timm.
_EXPORTS = {
    "AuditConfig": "timm_jackpot.audit",
    "AuditReport": "timm_jackpot.audit",
    "Budget": "timm_jackpot.methods",
    "Jackpot": "timm_jackpot.artifact",
    "JackpotConfig": "timm_jackpot.own_loop",
    "JackpotError": "timm_jackpot.errors",
    "JackpotModel": "timm_jackpot.serving",
    "MaskSet": "timm_jackpot.masks",
    "Outcome": "timm_jackpot.methods",
    "ScoreAdapter": "timm_jackpot.adapter",
    "SearchConfig": "timm_jackpot.search",
    "SearchResult": "timm_jackpot.search",
    "Task": "timm_jackpot.methods",
    "TrainableJackpot": "timm_jackpot.own_loop",
    "adapter_of": "timm_jackpot.adapter",
    "allocate": "timm_jackpot.masks",
    "attach": "timm_jackpot.adapter",
    "audit_jackpot": "timm_jackpot.audit",
    "base_from_module": "timm_jackpot.base",
    "config_of": "timm_jackpot.search",
    "cubic_ramp": "timm_jackpot.training",
    "detach": "timm_jackpot.adapter",
    "equalise_gradients": "timm_jackpot.methods",
    "export_jackpot": "timm_jackpot.export",
    "from_pretrained": "timm_jackpot.artifact",
    "get_jackpot_model": "timm_jackpot.own_loop",
    "layer_overlaps": "timm_jackpot.masks",
    "load_base": "timm_jackpot.base",
    "load_exported": "timm_jackpot.export",
    "mask_overlap": "timm_jackpot.masks",
    "maskable_weights": "timm_jackpot.base",
    "merge": "timm_jackpot.adapter",
    "predict": "timm_jackpot.evaluation.images",
    "proportional_scores": "timm_jackpot.methods",
    "push_to_hub": "timm_jackpot.hub",
    "reestimate_norm_statistics": "timm_jackpot.training",
    "save_pretrained": "timm_jackpot.artifact",
    "scale_counts": "timm_jackpot.masks",
    "search_jackpot": "timm_jackpot.search",
    "train_ticket": "timm_jackpot.search",
    "transform_of": "timm_jackpot.artifact",
    "zero_fractions": "timm_jackpot.adapter",
    "register_method": "timm_jackpot.methods",
}

__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]

if not TYPE_CHECKING:  # a type checker would take any unknown name for Any

    def __getattr__(name: str) -> object:
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
