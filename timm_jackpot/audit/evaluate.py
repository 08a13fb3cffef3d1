"""Evaluate every network of an audit once on the test split, with norm statistics re-estimated in the same way."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from timm_jackpot.errors import TrainingError
from timm_jackpot.evaluation import Predictions, predict
from timm_jackpot.evidence import title_of
from timm_jackpot.experiments import Cell, run_cells
from timm_jackpot.masks import chance_overlap, mask_overlap
from timm_jackpot.methods import Outcome, Task, build_network
from timm_jackpot.training import CALIBRATION_IMAGES, recalibrate


class AuditRow(NamedTuple):
    """One network of an audit."""

    name: str
    make: Callable[[], Outcome]
    recalibrated: bool = True  # whether to re-estimate norm statistics
    seed: int | None = None


class RowResult(NamedTuple):
    """Predictions for the test images, and overlap of the masks with the jackpot's, measured and by chance."""

    predictions: Predictions
    overlap: float | None
    chance: float | None
    seconds: float


def evaluate_rows(
    rows: list[AuditRow], task: Task, journal: Path, made_from: Mapping[str, Any]
) -> dict[str, list[RowResult]]:
    """The results of every row by name, one per seed; results in the journal are reused.

    Args:
        made_from: everything that determines the results of all rows.

    Raises:
        ConfigError: if the journal holds results made from something else.
        TrainingError: if the rows did not see the same test images.
    """
    cells = [
        Cell(
            key=f"{row.name}, seed {row.seed}" if row.seed is not None else row.name,
            title=title_of(row.name) + ("" if row.seed is None else f", seed {row.seed}"),
            made_from=dict(made_from),
            run=lambda row=row: _evaluate(row, task),
        )
        for row in rows
    ]
    results = run_cells(cells, journal, task.accelerator, what="audit:").results
    answers: dict[str, list[RowResult]] = {}
    for row, cell in zip(rows, cells, strict=True):
        answers.setdefault(row.name, []).append(_unpack(results[cell.key]))
    labels = answers[rows[0].name][0].predictions.labels
    for found in (one for several in answers.values() for one in several):
        if not torch.equal(labels, found.predictions.labels) or not len(labels):
            raise TrainingError("the test split did not give the same images twice: check that all of them can be read")
    return answers


def correct(answers: Mapping[str, list[RowResult]]) -> dict[str, NDArray[np.bool_]]:
    """Network → [seeds, images], whether each prediction was correct."""
    return {
        name: np.stack([found.predictions.correct.numpy() for found in several]) for name, several in answers.items()
    }


def agreement(some: list[RowResult], others: list[RowResult]) -> float:
    """Fraction of test images for which two networks predict the same class, averaged over their seeds."""
    pairs = [(one.predictions.predicted, two.predictions.predicted) for one in some for two in others]
    return float(np.mean([(one == two).float().mean().item() for one, two in pairs]))


def _evaluate(row: AuditRow, task: Task) -> dict[str, Any]:
    started = time.monotonic()
    outcome, jackpot = row.make(), task.masks_to_control()
    if row.recalibrated:
        kept = {name: changed for name, changed in outcome.changed.items() if changed.role != "norm_statistics"}
        network = build_network(task, replace(outcome, changed=kept))
        recalibrate(network, task.data, task.batch_size, task.accelerator, images=CALIBRATION_IMAGES)
    else:
        network = build_network(task, outcome)
    found = predict(network, task.data.test, batch_size=task.batch_size, accelerator=task.accelerator)
    masks = outcome.masks if outcome.masks is not None and list(outcome.masks) == list(jackpot) else None
    return {
        "predicted": pack_classes(found.predicted),
        "labels": pack_classes(found.labels),
        "overlap": None if masks is None else mask_overlap(jackpot, masks),
        "chance": None if masks is None else chance_overlap(jackpot, masks),
        "seconds": time.monotonic() - started,
    }


def pack_classes(classes: torch.Tensor) -> str:
    return base64.b64encode(zlib.compress(classes.numpy().astype("<i4").tobytes())).decode()


def unpack_classes(text: str) -> torch.Tensor:
    """
    Raises:
        ValueError: if the text is damaged.
    """
    try:
        return torch.from_numpy(np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").astype(np.int64))
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _unpack(result: Mapping[str, Any]) -> RowResult:
    predictions = Predictions(unpack_classes(result["predicted"]), unpack_classes(result["labels"]))
    return RowResult(predictions, result["overlap"], result["chance"], result["seconds"])
