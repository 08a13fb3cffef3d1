"""What a mask search can be set to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from timm_jackpot.criteria import criterion_names
from timm_jackpot.schema import OneOf, Settings
from timm_jackpot.training import OptimFlags

# Lottery Jackpots (arXiv:2104.08700), Sec. 4.1 and the authors' code: two-level start, constant sparsity, thresholds
# renewed in every step, plain cross-entropy.
PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "allocation": "global",
        "start": "two-level",
        "schedule": "constant",
        "refresh_interval": 1,
        "equalise_layers": False,
        "distill_weight": 0.0,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "stratify": False,
    }
)


class ScoreSettings(Settings):
    """Where scores start, how the sparsity rises, and what is trained beside the scores."""

    group: ClassVar[str] = "Search"

    criterion: Annotated[str, OneOf(criterion_names)] = "magnitude"
    """Where the search starts from; with --steps 0, what is kept."""
    start: Literal["proportional", "two-level"] = "proportional"
    """Initial scores: proportional to the criterion within each layer, or 1 (kept) and start-low (pruned)."""
    start_scale: float = Field(default=0.02, ge=1e-6, le=1e6)
    """Root mean square of each layer's initial scores (start=proportional)."""
    start_low: float = Field(default=0.95, ge=1e-6, lt=1)
    """Initial score of pruned weights (start=two-level)."""
    schedule: Literal["cubic", "constant"] = "cubic"
    """Sparsity over time: a cubic ramp from dense, or the final one throughout."""
    schedule_start: float = Field(default=0.0, ge=0, le=1)
    """Part of the final sparsity that the cubic ramp starts from."""
    schedule_fraction: float = Field(default=0.6, ge=0, le=1)
    """Part of the run over which the cubic ramp reaches the final sparsity."""
    refresh_interval: int = Field(default=10, ge=1, le=10**9)
    """Steps between two recomputations of the thresholds that tell, in every step, which weights are kept."""
    train_norm: bool = False
    """Train scales and shifts of the normalization layers too."""
    train_head: bool = False
    """Train the classifier too; always so for a new one."""
    freeze_norm_statistics: bool = False
    """Leave the running statistics of batch norm as they are in the base."""


class SearchSettings(ScoreSettings, OptimFlags):
    """Settings of a mask search: scores are trained, weights are not."""

    criterion_batches: int = Field(default=1, ge=1, le=10**6)
    """Batches of 256 images that snip, grasp and obd average over. On a trained network (ResNet-20) one is enough for
    obd: two draws of images put the weights in nearly the same order (Spearman 0.94). Not so with snip (0.63; 0.64
    for 16 batches) and grasp (−0.04; 0.20): the mean gradient of a trained network is noise."""
    lr: float = Field(default=0.05, ge=1e-12, le=1e6)
    """Peak learning rate; cosine to zero over the run."""
    equalise_layers: bool = True
    """Give the score gradients of all layers the same root mean square, so that all move at one pace."""
    distill_weight: float = Field(default=0.7, ge=0, le=1)
    """Weight of self-distillation from the dense base; the rest is cross-entropy. Off beside a new head."""
    temperature: float = Field(default=8.0, ge=1e-2, le=1e3)
    """Temperature of the distillation."""
    recalibrate_batches: int = Field(default=0, ge=0, le=10**6)
    """Batches over which running statistics are re-estimated at the end; 0 keeps the moving averages of the run."""
