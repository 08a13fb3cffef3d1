"""Pictures, drawn from run records alone."""

from timm_jackpot.plots.search_figure import search_figure

__all__ = ["search_figure"]
