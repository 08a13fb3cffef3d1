"""What fixes a search: one flat, strict schema for flags, recipes and presets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from timm_jackpot.artifact import Encoding
from timm_jackpot.base import BaseFlags
from timm_jackpot.data import DataFlags
from timm_jackpot.masks import ALLOCATIONS, parse_sparsity
from timm_jackpot.training import TrainFlags

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Lottery Jackpots (arXiv:2104.08700), Sec. 4.1 and the authors' code: two-level start, constant
        # sparsity, the mask renewed in every forward, plain cross-entropy.
        "paper": {
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
        },
    }
)


def _n_of_m(text: object) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+):(2|4|8|16|32)", text) if isinstance(text, str) else None
    pattern = (int(match[1]), int(match[2])) if match else None
    return pattern if pattern and 0 < pattern[0] < pattern[1] else None


class SearchConfig(BaseFlags, DataFlags, TrainFlags):
    """Settings of one search. Precedence: default < preset < recipe < flag."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    preset: Literal["default", "paper"] = "default"
    """default: the best search we know. paper: the paper's own."""
    sparsity: str = "0.9"
    """Fraction of the maskable weights to remove, in [0, 1), read as an exact decimal."""
    pretrained: bool = True
    """Search in the pre-trained weights; --no-pretrained: in random ones, saved beside the artifact (a control)."""
    criterion: Literal["magnitude", "snip", "grasp", "obd", "synflow", "random"] = "magnitude"
    """Where the search starts from; with --steps 0, what is kept."""
    criterion_batches: int = Field(default=1, ge=1, le=10**6)
    """Batches of 256 images that snip, grasp and obd average over. On a trained network (ResNet-20) one is enough for
    obd: two draws of images put the weights in nearly the same order (Spearman 0.94). Not so with snip (0.63; 0.64
    for 16 batches) and grasp (−0.04; 0.20): the mean gradient of a trained network is noise."""
    allocation: str = "erk"
    """How the budget is shared out among layers: erk (by shape), global (one threshold for all), uniform; or N:M, as
    2:4, which keeps N of every M weights along the input channels and takes the place of --sparsity."""
    min_density: float = Field(default=0.0, ge=0, le=1)
    """Fraction of its weights that every layer keeps at least."""
    layer_sparsity: tuple[str, ...] = ()
    """Sparsity of single layers as pattern=value, e.g. 'layer1.*=0.5'; the others share the rest of the budget."""
    strict: bool = False
    """Make an error of what would be left out with a notice: layers that an N:M pattern does not fit, images that
    cannot be read."""
    include: tuple[str, ...] = ()
    """Shell patterns of weight names, as stages.3.*: mask these only."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of weight names to leave dense."""
    lr: float = Field(default=0.05, ge=1e-12, le=1e6)
    """Peak learning rate; cosine to zero over the run."""
    stratify: bool = True
    """Spread every class evenly over the training batches (of all processes together) of in-memory images."""
    mask_classifier: bool = False
    """Mask the classifier too; by default it stays dense, as in the reference."""
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
    equalise_layers: bool = True
    """Give the score gradients of all layers the same root mean square, so that all move at one pace."""
    distill_weight: float = Field(default=0.7, ge=0, le=1)
    """Weight of self-distillation from the dense base; the rest is cross-entropy. Off beside a new head."""
    temperature: float = Field(default=8.0, ge=1e-2, le=1e3)
    """Temperature of the distillation."""
    train_norm: bool = False
    """Train scales and shifts of the normalisation layers too."""
    train_head: bool = False
    """Train the classifier too; always so for a new one."""
    freeze_norm_statistics: bool = False
    """Leave the running statistics of batch norm as they are in the base."""
    recalibrate_batches: int = Field(default=0, ge=0, le=10**6)
    """Batches over which running statistics are re-estimated at the end; 0 keeps the moving averages of the run."""
    output: str | None = None
    """Folder for the artifact. Default: a fresh one under runs/."""
    encoding: Encoding = "packed"
    """How the masks are stored: packed (one bit per weight), or compact (a quarter of that, read beside the base)."""
    overwrite: bool = False
    """Replace an artifact that --output already holds."""
    checkpoint_steps: int = Field(default=0, ge=0, le=10**9)
    """Steps between two checkpoints in the output folder; 0: only after the last step, or where a signal stops it."""
    resume: str | None = None
    """Go on with a stopped run: auto (the newest checkpoint of --output, if there is one) or a checkpoint's path."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: object) -> object:
        """The preset's settings, and the sparsity that an N:M pattern is."""
        if not isinstance(values, dict):
            return values
        values = {**PRESETS.get(str(values.get("preset")), {}), **values}
        pattern = _n_of_m(values.get("allocation"))
        if pattern is not None:
            n, m = pattern
            implied = str(Decimal(m - n) / m)
            given = str(values.get("sparsity", implied))
            odd = next((key for key in ("layer_sparsity", "min_density") if values.get(key)), None)
            if odd is None and not (re.fullmatch(r"[0-9.]+", given) and parse_sparsity(given) == Decimal(implied)):
                odd = "sparsity"
            if odd:
                flag = odd.replace("_", "-")
                raise ValueError(f"--allocation {n}:{m} is a sparsity of {implied} everywhere: leave --{flag} out")
            values["sparsity"] = implied
        return values

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """(2, 4) of the allocation 2:4; None of the others."""
        return _n_of_m(self.allocation)

    @field_validator("allocation")
    @classmethod
    def _known_allocation(cls, value: str) -> str:
        if value in ALLOCATIONS or _n_of_m(value):
            return value
        raise ValueError(f"choose one of {', '.join(ALLOCATIONS)}, or N:M with M = 2, 4, 8, 16 or 32, as 2:4")

    @field_validator("sparsity", mode="before")
    @classmethod
    def _exact_decimal(cls, value: object) -> str:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return f"{parse_sparsity(value):f}"
        return value  # pyright: ignore[reportReturnType]  # pydantic says what is wrong with it
