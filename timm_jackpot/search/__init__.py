"""Search: find a jackpot in a base, measure it beside its controls, save it."""

from timm_jackpot.search.config import PRESETS, SearchConfig
from timm_jackpot.search.run import SearchResult, search_jackpot

__all__ = ["PRESETS", "SearchConfig", "SearchResult", "search_jackpot"]
