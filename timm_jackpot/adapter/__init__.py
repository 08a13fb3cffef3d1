"""The score adapter: a parametrization of `.weight`, so that all code that reads the weight sees it masked."""

from timm_jackpot.adapter.attach import ScoreAdapter, adapter_of, attach, detach
from timm_jackpot.adapter.merge import merge, zero_fractions
from timm_jackpot.adapter.score_mask import ScoreMask

__all__ = ["ScoreAdapter", "ScoreMask", "adapter_of", "attach", "detach", "merge", "zero_fractions"]
