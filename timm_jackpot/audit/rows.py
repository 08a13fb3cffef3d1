"""The networks of an audit: the jackpot, the dense base, every control, and any other methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from timm_jackpot.artifact import Artifact
from timm_jackpot.audit.evaluate import AuditRow
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods import (
    Budget,
    ChangedTensor,
    FixedMaskSettings,
    OneShotSettings,
    Outcome,
    Role,
    SearchSettings,
    Task,
    check_control,
    method,
    trained_parameters,
)
from timm_jackpot.methods.dense import DenseSettings
from timm_jackpot.search import RunConfig


def audit_rows(
    artifact: Artifact, task: Task, budget: Budget, search: RunConfig, seeds: Sequence[int], beside: Sequence[str]
) -> list[AuditRow]:
    """All rows, in the order in which they are evaluated.

    Args:
        task: its masks are the jackpot's.
        budget, search: those of the jackpot's own search.
        beside: other methods, with their default settings.
    """
    masks = task.masks_to_control()
    settings = search if isinstance(search, SearchSettings) else None
    # Evaluation re-estimates statistics for all rows; a head is trained on re-estimated ones.
    trains = bool(trained_parameters(task.base, masks, settings)) if settings else task.base.new_head
    one_shot = OneShotSettings.like(search, recalibrated=trains)

    def at(seed: int) -> Budget:
        return replace(budget, seed=seed)

    def magnitude() -> Outcome:
        return method("magnitude").run(task, budget, one_shot)

    def random(seed: int) -> Outcome:
        same_counts = replace(at(seed), kept=masks.kept_per_layer())
        outcome = method("random").run(task, same_counts, one_shot)
        assert outcome.masks is not None
        check_control("random", outcome.masks, masks)
        return outcome

    def dense(*, recalibrated: bool) -> Outcome:
        untouched = DenseSettings.like(search, recalibrated=recalibrated).model_copy(update={"train_norm": False})
        return method("dense").run(task, budget, untouched)

    def control(name: str, seed: int) -> Outcome:
        return method(name).run(task, at(seed), FixedMaskSettings.like(search, recalibrated=trains))

    rows = [
        AuditRow("dense", partial(dense, recalibrated=False), recalibrated=False),
        AuditRow("dense_recalibrated", partial(dense, recalibrated=trains)),
        AuditRow("jackpot", partial(_as_published, artifact, masks), recalibrated=False),
        AuditRow("jackpot_recalibrated", partial(_as_published, artifact, masks)),
        AuditRow("magnitude", magnitude, recalibrated=False),
        AuditRow("magnitude_recalibrated", magnitude),
        AuditRow("smallest", partial(control, "smallest", budget.seed)),
    ]
    for seed in seeds:
        rows += [
            AuditRow("permuted_within", partial(control, "permuted_within", seed), seed=seed),
            AuditRow("permuted_across", partial(control, "permuted_across", seed), seed=seed),
            AuditRow("random", partial(random, seed), seed=seed),
            AuditRow("reinitialised", partial(control, "reinitialised", seed), seed=seed),
        ]
    for seed in seeds:
        rows += [
            AuditRow("second_search", partial(method(search.method).run, task, at(seed), search), seed=seed),
            AuditRow("shuffled_labels", partial(method("shuffled_labels").run, task, at(seed), settings), seed=seed),
            *(AuditRow(name, partial(method(name).run, task, at(seed)), seed=seed) for name in beside),
        ]
    return rows


def _as_published(artifact: Artifact, masks: MaskSet) -> Outcome:
    roles: dict[str, Role] = {extra.name: extra.role for extra in artifact.config.extras}
    changed = {name: ChangedTensor(roles[name], tensor) for name, tensor in artifact.extras.items()}
    return Outcome(masks, changed, 0, 0.0)
