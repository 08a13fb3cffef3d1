"""The score adapter: a parametrization of `.weight`, so that all code that reads the weight sees it masked."""

from timm_jackpot.adapter.attach import ScoreAdapter, adapter_of, attach, detach, put_on
from timm_jackpot.adapter.merge import merge, silence, zero_fractions
from timm_jackpot.adapter.score_mask import OnWeight, ScoreMask

__all__ = [
    "OnWeight",
    "ScoreAdapter",
    "ScoreMask",
    "adapter_of",
    "attach",
    "detach",
    "merge",
    "put_on",
    "silence",
    "zero_fractions",
]
