"""audit.predictions.json: what every network of an audit predicts for each test image, for `--pool`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from timm_jackpot.artifact import Artifact
from timm_jackpot.artifact.strict_json import parse_strict
from timm_jackpot.artifact.tensors_file import read_bytes
from timm_jackpot.audit.evaluate import RowResult, pack_classes, unpack_classes
from timm_jackpot.base import Base
from timm_jackpot.base.ref import Hex64
from timm_jackpot.data import DataFlags, ImageSource, image_hashes
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evaluation import Predictions
from timm_jackpot.evidence import AuditReport, plain_text
from timm_jackpot.schema import Document, fault_of
from timm_jackpot.search import RunConfig
from timm_jackpot.search.save import published_settings

PREDICTIONS = "audit.predictions.json"
_MAX_BYTES = 256 * 1024 * 1024
_ROUNDING = 1e-6
# What may differ between the folds of one recipe: which images there are, and how they are read.
_OF_A_FOLD = {*DataFlags.model_fields, "seed"} - {"batch_size", "val_fraction", "hflip", "crop_padding", "stratify"}


class AuditPredictions(Document):
    """Predictions of an audit's networks, and what tells whether they can be joined with another audit's."""

    format: Literal[1]
    mask_hash: Hex64
    base_digest: Hex64
    searched_on: str | None  # the search's own data set, if it is recorded
    settings: dict[str, Any]  # of the search, without those of its data
    images: list[str] | None  # a hash for each test image, sorted; None: too many to decode
    labels: str  # packed, as the rows are
    rows: dict[str, list[str]]  # predicted classes by network, one text per seed

    def answers(self, report: AuditReport) -> dict[str, list[RowResult]]:
        """The predictions, as `evaluate_rows` returned them, without overlaps and seconds.

        Raises:
            ValueError: if they are damaged, or contradict the report.
        """
        labels = unpack_classes(self.labels)
        answers = {
            name: [RowResult(Predictions(unpack_classes(text), labels), None, None, 0.0) for text in several]
            for name, several in self.rows.items()
        }
        for name, measured in report.models.items():
            found = [one.predictions for one in answers.get(name, [])]
            sizes = {len(one.predicted) for one in found}
            if len(found) != measured.n or sizes != {len(labels)} or len(labels) != report.data.test_images:
                raise ValueError(f"{name} has other predictions")
            top1 = 100 * torch.stack([one.correct.double() for one in found]).mean().item()
            if abs(top1 - measured.top1.value) > _ROUNDING:
                raise ValueError(f"the predictions of {name} do not give its accuracy")
        return {name: answers[name] for name in report.models}


def predictions_of(
    answers: Mapping[str, list[RowResult]], artifact: Artifact, base: Base, search: RunConfig, test: ImageSource
) -> AuditPredictions:
    hashes, searched_on = image_hashes(test), (artifact.config.info.get("results") or {}).get("dataset")
    return AuditPredictions(
        format=1,
        mask_hash=artifact.config.mask_hash,
        base_digest=base.ref.digest,
        searched_on=None if searched_on is None else plain_text(str(searched_on)),
        settings={key: value for key, value in published_settings(search).items() if key not in _OF_A_FOLD},
        images=None if hashes is None else sorted(hashes),
        labels=pack_classes(answers["dense"][0].predictions.labels),
        rows={name: [pack_classes(one.predictions.predicted) for one in several] for name, several in answers.items()},
    )


def read_predictions(folder: Path, report: AuditReport) -> tuple[AuditPredictions, dict[str, list[RowResult]]]:
    """The predictions beside a report, which they must agree with.

    Raises:
        ConfigError: if they are missing, damaged, or another audit's.
    """
    path = folder / PREDICTIONS
    try:
        text = read_bytes(path, _MAX_BYTES)
        parse_strict(text, PREDICTIONS, max_bytes=_MAX_BYTES)
        found = AuditPredictions.model_validate_json(text)
        if found.mask_hash != report.mask_hash:
            raise ValueError("they are of another mask")
        return found, found.answers(report)
    except (ArtifactError, ValueError) as error:
        reason = fault_of(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path} does not belong to the audit.json beside it ({reason}): audit again") from error
