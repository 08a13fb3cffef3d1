"""Search: find a jackpot in a base, measure it next to its controls, save it."""

from timm_jackpot.search.config import PRESETS, RunConfig, SearchConfig, config_from, config_of
from timm_jackpot.search.run import SearchResult, search_jackpot
from timm_jackpot.search.ticket import TicketResult, train_ticket

__all__ = [
    "PRESETS",
    "RunConfig",
    "SearchConfig",
    "SearchResult",
    "TicketResult",
    "config_from",
    "config_of",
    "search_jackpot",
    "train_ticket",
]
