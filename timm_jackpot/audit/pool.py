"""Audits of one recipe on disjoint test images, such as the folds of a data set: one verdict over all images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.evaluate import RowResult
from timm_jackpot.audit.findings import findings
from timm_jackpot.audit.predictions import AuditPredictions, read_predictions
from timm_jackpot.audit.write import write_pooled_report
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evaluation import Predictions
from timm_jackpot.evidence import (
    AuditData,
    AuditReport,
    Fold,
    LayerDensity,
    PooledReport,
    read_audit_file,
    this_version,
)
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import launched_as_main


class _Audit(NamedTuple):
    folder: Path
    report: AuditReport
    predictions: AuditPredictions
    answers: Mapping[str, list[RowResult]]


def pool_audits(config: AuditConfig) -> PooledReport:
    """Join the predictions of finished audits, and write audit.json and audit.md to `config.output`.

    The verdict is about the recipe, not about one mask.

    Raises:
        ConfigError: if an audit or its predictions are missing or damaged, if the audits are not of one recipe, or if
            two of them share test images.
    """
    folder = check_output(str(config.output))
    audits = [_read(Path(name)) for name in config.pool]
    if folder.resolve() in {audit.folder.resolve() for audit in audits}:
        raise ConfigError(f"--output {folder} holds one of the audits, which would be replaced: choose another folder")
    for one, other in itertools.combinations(audits, 2):
        _check_one_recipe(one, other)
        _check_disjoint(one, other)
    reports = [audit.report for audit in audits]
    leaked = [report.data.leaked_test_images for report in reports]
    tested = AuditData(
        dataset=" + ".join(report.data.dataset for report in reports)[:200],
        train_images=min(report.data.train_images for report in reports),
        test_images=sum(report.data.test_images for report in reports),
        calibration_images=min(report.data.calibration_images for report in reports),
        leaked_test_images=None if None in leaked else sum(count or 0 for count in leaked),
    )
    layers = [
        LayerDensity(
            name=same[0].name, kept=sum(layer.kept for layer in same), total=sum(layer.total for layer in same)
        )
        for same in zip(*(report.layers for report in reports), strict=True)
    ]
    margin = reports[0].similar_margin if config.similar_margin is None else config.similar_margin
    pooled = PooledReport(
        **findings(_joined([audit.answers for audit in audits]), layers, tested, margin),
        format=2,
        kind="pooled",
        producer=this_version(),
        folds=[_fold(audit) for audit in audits],
        steps=reports[0].steps,
    )
    if launched_as_main():
        write_pooled_report(pooled, folder)
    return pooled


def _read(folder: Path) -> _Audit:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}: --pool takes folders of finished audits")
    try:
        report = read_audit_file(folder)
    except ArtifactError as error:
        raise ConfigError(f"{folder} holds no audit of a jackpot ({error}): audit one there first") from error
    return _Audit(folder, report, *read_predictions(folder, report))


def _fold(audit: _Audit) -> Fold:
    return Fold(
        base=audit.report.base,
        base_digest=audit.predictions.base_digest,
        mask_hash=audit.report.mask_hash,
        data=audit.report.data,
        dense=audit.report.models["dense"].top1.value,
        jackpot=audit.report.models["jackpot"].top1.value,
    )


def _check_one_recipe(one: _Audit, other: _Audit) -> None:
    rows = [{name: measured.n for name, measured in audit.report.models.items()} for audit in (one, other)]
    if rows[0] != rows[1]:
        raise ConfigError(
            f"{one.folder} and {other.folder} do not have the same rows: audit both with the same --seeds and --beside"
        )
    for what in ("base", "steps", "similar_margin"):
        values = [getattr(audit.report, what) for audit in (one, other)]
        if values[0] != values[1]:
            raise ConfigError(_differ(one, other, what, values))
    settings = one.predictions.settings, other.predictions.settings
    for key in sorted(settings[0].keys() | settings[1].keys()):
        values = [of_one.get(key) for of_one in settings]
        if values[0] != values[1]:
            raise ConfigError(_differ(one, other, key, values))
    layers = [[(layer.name, layer.total) for layer in audit.report.layers] for audit in (one, other)]
    if layers[0] != layers[1]:
        raise ConfigError(f"{one.folder} and {other.folder} mask different layers: pool audits of one recipe")


def _differ(one: _Audit, other: _Audit, what: str, values: Sequence[object]) -> str:
    return f"{one.folder} and {other.folder} differ in {what} ({values[0]}, {values[1]}): pool audits of one recipe"


def _check_disjoint(one: _Audit, other: _Audit) -> None:
    for audit in (one, other):
        searched, audited = audit.predictions.searched_on, audit.report.data.dataset
        if searched is not None and searched != audited:
            raise ConfigError(
                f"{audit.folder}: the mask was searched on {searched}, and audited on {audited}: it may have seen "
                "these images"
            )
        if audit.predictions.images is None:
            raise ConfigError(f"{audit.folder} has too many test images to be compared with others, pixel by pixel")
    shared = set(one.predictions.images or ()) & set(other.predictions.images or ())
    if shared:
        raise ConfigError(
            f"{one.folder} and {other.folder} share {len(shared)} test images: pool audits whose test images differ"
        )


def _joined(answers: Sequence[Mapping[str, list[RowResult]]]) -> dict[str, list[RowResult]]:
    """Each row's predictions for the images of all audits, one audit after the other, seed by seed."""
    return {
        name: [_end_to_end([one[name][seed] for one in answers]) for seed in range(len(several))]
        for name, several in answers[0].items()
    }


def _end_to_end(parts: Sequence[RowResult]) -> RowResult:
    predicted = torch.cat([part.predictions.predicted for part in parts])
    labels = torch.cat([part.predictions.labels for part in parts])
    return RowResult(Predictions(predicted, labels), None, None, 0.0)
