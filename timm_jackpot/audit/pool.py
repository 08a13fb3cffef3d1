"""Audits of one recipe on disjoint test images, such as the folds of a data set: one verdict over all images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.evaluate import RowResult, read_answers
from timm_jackpot.audit.findings import findings, this_version
from timm_jackpot.audit.write import write_pooled_report
from timm_jackpot.errors import ConfigError
from timm_jackpot.evaluation import Predictions
from timm_jackpot.evidence import AuditData, AuditReport, LayerDensity, PooledReport, read_audit_file
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import launched_as_main


def pool_audits(config: AuditConfig) -> PooledReport:
    """Join the predictions of finished audits, and write audit.json and audit.md to `config.output`.

    The verdict is about the recipe: about masks that are each searched and tested on other images.

    Raises:
        ConfigError: if predictions are missing, the audits have different rows or settings, or the same data set.
        ArtifactError: if a report is missing or invalid.
    """
    folder, folders = check_output(str(config.output)), [Path(name) for name in config.pool]
    reports = [read_audit_file(one) for one in folders]
    answers = [read_answers(one, report.mask_hash) for one, report in zip(folders, reports, strict=True)]
    _check_alike(config.pool, reports, answers)
    margin = reports[0].similar_margin if config.similar_margin is None else config.similar_margin
    layers = [
        LayerDensity(name=f"{number}.{layer.name}", kept=layer.kept, total=layer.total)
        for number, report in enumerate(reports, 1)
        for layer in report.layers
    ]
    leaked = [report.data.leaked_test_images for report in reports]
    tested = AuditData(
        dataset=" + ".join(report.data.dataset for report in reports)[:200],
        train_images=sum(report.data.train_images for report in reports),
        test_images=sum(report.data.test_images for report in reports),
        calibration_images=max(report.data.calibration_images for report in reports),
        leaked_test_images=None if None in leaked else sum(count or 0 for count in leaked),
    )
    pooled = PooledReport(
        **findings(_joined(answers), layers, tested, margin),
        format=1,
        kind="pooled",
        producer=this_version(),
        masks={report.mask_hash: report.data.dataset for report in reports},
        steps=reports[0].steps,
    )
    if launched_as_main():
        write_pooled_report(pooled, folder)
    return pooled


def _check_alike(
    names: Sequence[str], reports: Sequence[AuditReport], answers: Sequence[Mapping[str, list[RowResult]]]
) -> None:
    rows = [{name: len(several) for name, several in one.items()} for one in answers]
    settings = [(report.steps, report.similar_margin) for report in reports]
    for name, counts, values in zip(names[1:], rows[1:], settings[1:], strict=True):
        if counts != rows[0]:
            raise ConfigError(f"{name} has other rows than {names[0]}: audit both with the same --seeds and --beside")
        if values != settings[0]:
            raise ConfigError(f"{name} has other steps or margins than {names[0]}: pool audits of one recipe")
    masks, datasets = (
        Counter(getter) for getter in ([r.mask_hash for r in reports], [r.data.dataset for r in reports])
    )
    again = [name for name, count in datasets.items() if count > 1 and name != "folder"]
    if again or max(masks.values()) > 1:
        what = again[0] if again else "one mask"
        raise ConfigError(f"{what} is audited twice: pool audits on test images that have none in common")


def _joined(answers: Sequence[Mapping[str, list[RowResult]]]) -> dict[str, list[RowResult]]:
    """Each row's predictions for the images of all audits, one audit after the other, seed by seed."""
    return {
        name: [_end_to_end([one[name][seed] for one in answers]) for seed in range(len(several))]
        for name, several in answers[0].items()
    }


def _end_to_end(parts: Sequence[RowResult]) -> RowResult:
    predicted = torch.cat([part.predictions.predicted for part in parts])
    labels = torch.cat([part.predictions.labels for part in parts])
    return RowResult(Predictions(predicted, labels), None, None, sum(part.seconds for part in parts))
