"""Pictures, drawn from run records and reports alone."""

from timm_jackpot.plots.audit_figures import AUDIT_PICTURES, audit_figures
from timm_jackpot.plots.overlap_figure import overlap_figure
from timm_jackpot.plots.search_figure import search_figure
from timm_jackpot.plots.sweep_figure import convergence_figure, sweep_figure
from timm_jackpot.plots.transfer_figure import transfer_figure

__all__ = [
    "AUDIT_PICTURES",
    "audit_figures",
    "convergence_figure",
    "overlap_figure",
    "search_figure",
    "sweep_figure",
    "transfer_figure",
]
