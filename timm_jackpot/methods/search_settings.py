"""The settings of a mask search."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from timm_jackpot.criteria import criterion_names
from timm_jackpot.methods.train import AlongFlags, WarmHeadFlags
from timm_jackpot.schema import OneOf

# Lottery Jackpots (arXiv:2104.08700), Sec. 4.1 and the authors' code: two-level start, constant sparsity, thresholds
# recomputed at every step, plain cross-entropy.
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


class ScoreSettings(AlongFlags):
    """The initial scores, the sparsity schedule, and what is trained along with the scores."""

    group: ClassVar[str] = "Search"

    criterion: Annotated[str, OneOf(criterion_names)] = "magnitude"
    """Criterion for the initial scores; with --steps 0, it alone decides which weights are kept."""
    start: Literal["proportional", "two-level"] = "proportional"
    """Initial scores: proportional to the criterion within each layer, or 1 (kept) and start-low (pruned)."""
    start_scale: float = Field(default=0.02, ge=1e-6, le=1e6)
    """Root mean square of each layer's initial scores (start=proportional)."""
    start_low: float = Field(default=0.95, ge=1e-6, lt=1)
    """Initial score of pruned weights (start=two-level)."""
    schedule: Literal["cubic", "constant"] = "cubic"
    """Sparsity over time: a cubic ramp from dense, or constant at the final value."""
    schedule_start: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the final sparsity at which the cubic ramp starts."""
    schedule_fraction: float = Field(default=0.6, ge=0, le=1)
    """Fraction of the run after which the cubic ramp reaches the final sparsity."""
    refresh_interval: int = Field(default=10, ge=1, le=10**9)
    """Steps between recomputations of the thresholds that decide, at every step, which weights are kept."""
    freeze_norm_statistics: bool = False
    """Keep the running statistics of batch norm from the base."""


class SearchSettings(ScoreSettings, WarmHeadFlags):
    """Settings of a mask search: scores are trained, weights are not."""

    criterion_batches: int = Field(default=1, ge=1, le=10**6)
    """Batches of 256 images that snip, grasp and obd average over. On a trained ResNet-20, one is enough for obd and
    grasp: the scores from two samples of images agree well (Spearman 0.96 and 0.89). Those of snip do not (0.64; 0.78
    with 87 batches, and more gave no better mask): the mean gradient of a trained network is noise."""
    lr: float = Field(default=0.05, ge=1e-12, le=1e6)
    """Peak learning rate."""
    equalise_layers: bool = True
    """Scale the score gradients of all layers to the same root mean square, so that all layers change at one pace."""
    distill_weight: float = Field(default=0.7, ge=0, le=1)
    """Weight of self-distillation from the dense base; the rest is cross-entropy. Off with a new head."""
    temperature: float = Field(default=8.0, ge=1e-2, le=1e3)
    """Distillation temperature."""
    validations: int = Field(default=4, ge=1, le=10**6)
    """How often held-out images are evaluated during the search: the points of a convergence curve."""
    recalibrate_batches: int = Field(default=0, ge=0, le=10**6)
    """Batches on which running statistics are re-estimated at the end (40 with --allocation filters); 0 keeps the
    moving averages of the run."""
