"""Pictures of run records, reports and masks."""

from timm_jackpot.plots.adapter_figure import adapter_figure
from timm_jackpot.plots.audit_figures import AUDIT_PICTURES, audit_figures
from timm_jackpot.plots.cost_figure import cost_figure, sparsity_figure
from timm_jackpot.plots.mask_figure import mask_figure
from timm_jackpot.plots.overlap_figure import overlap_figure
from timm_jackpot.plots.search_figure import SEARCH_PICTURES, search_figure
from timm_jackpot.plots.sweep_figure import convergence_figure, sweep_figure
from timm_jackpot.plots.transfer_figure import transfer_figure

__all__ = [
    "AUDIT_PICTURES",
    "SEARCH_PICTURES",
    "adapter_figure",
    "audit_figures",
    "convergence_figure",
    "cost_figure",
    "mask_figure",
    "overlap_figure",
    "search_figure",
    "sparsity_figure",
    "sweep_figure",
    "transfer_figure",
]
