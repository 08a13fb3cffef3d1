"""Networks under masks that no training chose: what is re-estimated and trained for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from timm_jackpot.adapter import silence
from timm_jackpot.base import norm_statistics
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.task import ChangedTensor, Outcome, Phase, Stopwatch, Task, build_network
from timm_jackpot.methods.train import (
    AlongFlags,
    HeadFlags,
    affine_of,
    changed_tensors,
    train_along,
    trained_parameters,
)
from timm_jackpot.schema import Settings
from timm_jackpot.training import CALIBRATION_IMAGES, Record, recalibrate


class FixedMaskSettings(HeadFlags, AlongFlags):
    """Settings of methods that do not train masks. A new head is trained for the run's steps, as in a search."""

    group: ClassVar[str] = "Search"

    lr: float = Field(default=0.05, ge=1e-12, le=1e6)
    """Peak learning rate of a new head, or of norms."""
    recalibrated: bool = True
    """Re-estimate the running statistics of batch norm under the mask on 10,000 training images."""

    @classmethod
    def like(cls, search: Settings, *, recalibrated: bool) -> Self:
        """Settings that train a head and norms exactly as another method's settings do."""
        return cls(**{**search.model_dump(include=set(cls.model_fields)), "recalibrated": recalibrated})


def under_masks(
    task: Task,
    masks: MaskSet | None,
    budget: Budget,
    settings: FixedMaskSettings,
    *,
    weights: Mapping[str, Tensor] | None = None,
    start: MaskSet | None = None,
) -> Outcome:
    """The base under `masks` (None: dense): statistics are re-estimated, then head and norms are trained as asked.

    Args:
        weights: weights that replace those of the base.

    Raises:
        BaseError: if the settings ask to train parameters that the base does not have.
    """
    watch = Stopwatch()
    trained = trained_parameters(task.base, task.maskable.weights, settings)
    statistics = norm_statistics(task.base.model) if settings.recalibrated else []
    changed = {name: ChangedTensor("weights", tensor.detach().cpu()) for name, tensor in (weights or {}).items()}
    silenced = affine_of(task.maskable.filters) if masks is not None else {}
    if not (trained or statistics or silenced):
        return Outcome(masks, changed, 0, watch.seconds, start)
    model = build_network(task, Outcome(masks, changed, 0, 0.0))
    if masks is not None and task.maskable.filters is not None:
        silence(model, masks, task.maskable.filters)
    if statistics:
        recalibrate(model, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
    if trained:
        train_along(model, trained, replace(task, record=Record()), budget, settings)
    changed |= changed_tensors(model, silenced | trained, statistics=bool(statistics))
    steps = budget.steps if trained else 0
    phases = (Phase("head", steps, masks.kept_per_layer() if masks is not None else None, head_only=True),)
    return Outcome(masks, changed, steps, watch.seconds, start, phases=phases if steps else ())
