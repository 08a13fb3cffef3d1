"""The score adapter: a parametrization on `.weight` that every reader of the weight goes through."""

from timm_jackpot.adapter.attach import ScoreAdapter, attach, detach
from timm_jackpot.adapter.merge import merge
from timm_jackpot.adapter.score_mask import ScoreMask

__all__ = ["ScoreAdapter", "ScoreMask", "attach", "detach", "merge"]
