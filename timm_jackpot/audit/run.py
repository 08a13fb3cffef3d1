"""`audit_jackpot`: from an artifact to its audit report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import mean

import torch
from accelerate import Accelerator
from torch import nn

from timm_jackpot.artifact import Artifact, open_artifact
from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.evaluate import RowResult, agreement, evaluate_rows
from timm_jackpot.audit.findings import findings
from timm_jackpot.audit.predictions import predictions_of
from timm_jackpot.audit.rows import audit_rows
from timm_jackpot.audit.tickets import trained_rows
from timm_jackpot.audit.write import choose_target, write_report
from timm_jackpot.base import norm_statistics
from timm_jackpot.criteria import criterion_names
from timm_jackpot.data import Data, shared_images
from timm_jackpot.errors import ConfigError
from timm_jackpot.evidence import (
    AUDIT_FORMAT,
    NON_TRIVIAL_PERCENT,
    AuditData,
    AuditReport,
    LayerDensity,
    Overlap,
    SecondSearch,
    plain_text,
    similar_margin,
    this_version,
)
from timm_jackpot.experiments import folder_lock
from timm_jackpot.masks import MaskSet, chance_overlap, mask_overlap
from timm_jackpot.methods import Budget, Task
from timm_jackpot.methods.start import start_from
from timm_jackpot.runtime.processes import described, make_accelerator, say
from timm_jackpot.search import RunConfig
from timm_jackpot.search.reopen import recorded_processes, reopen_search
from timm_jackpot.search.save import published_settings
from timm_jackpot.training import CALIBRATION_IMAGES

_JOURNAL = "audit.partial.json"  # an interrupted audit resumes from it
_MAX_CHANCE_OVERLAP = 0.999  # above it, random masks with the same counts are all nearly the same


def audit_jackpot(config: AuditConfig, base: nn.Module | None = None) -> AuditReport:
    """Compare a jackpot with its controls on the test split, and write the report.

    audit.json, figures and an updated card go to the artifact's own folder; or audit.json, audit.md and figures to
    `config.output`. The main process writes them at the end.

    Args:
        base: the module that the artifact was searched on, if it is a custom one.

    Raises:
        JackpotError: if artifact, base or data cannot be used, before any search; or if a control is broken.
    """
    accelerator = make_accelerator(seed=0)
    target = choose_target(config)
    assert config.artifact is not None
    with accelerator.main_process_first():
        artifact, loaded = open_artifact(
            config.artifact,
            base_checkpoint=config.base_checkpoint,
            base=base,
            revision=config.revision,
            trust_base=config.trust_base,
        )
    masks = artifact.masks_on(loaded)
    _check_controls_are_possible(masks)
    if 100 * masks.sparsity <= NON_TRIVIAL_PERCENT:
        say(f"note: the verdict will be none, as it asks for more than {NON_TRIVIAL_PERCENT:g} % sparsity", accelerator)
    task, budget, search = reopen_search(artifact, loaded, config, accelerator)
    data = task.data
    _report_differences(artifact, data, accelerator)
    leaked = shared_images(data.test, [data.train, *([data.val] if data.val is not None else [])])
    task = replace(task, data=replace(data, val=None))  # nothing is selected here
    seeds = [(search.seed + 1 + i) % 2**31 for i in range(config.seeds)]
    journal = target.folder / _JOURNAL
    made_from = {
        "mask": masks.hash(),
        "base": loaded.ref.digest,
        "data": data.name,
        "images": [len(data.train), len(data.test)],
        **described(accelerator),
        **published_settings(search),
    }
    rows = audit_rows(artifact, task, budget, search, seeds, config.beside)
    if config.tickets is not None:
        trained, made_from["tickets"] = trained_rows(config, artifact, task, search)
        rows += trained
    with folder_lock(target.folder.resolve(), accelerator):
        answers = evaluate_rows(rows, task, journal, made_from)

    tested = AuditData(
        dataset=plain_text(data.name),
        train_images=len(data.train),
        test_images=len(answers["dense"][0].predictions.labels),
        calibration_images=_calibration_images(task, task.batch_size * accelerator.num_processes),
        leaked_test_images=leaked,
    )
    margin = config.similar_margin if config.similar_margin is not None else similar_margin(data.name)
    layers = [LayerDensity(name=layer.name, kept=layer.kept, total=layer.total) for layer in artifact.config.layers]
    report = AuditReport(
        **findings(answers, layers, tested, margin),
        format=AUDIT_FORMAT,
        producer=this_version(),
        base=plain_text(loaded.ref.name),
        mask_hash=masks.hash(),
        steps=budget.steps,
        seeds=seeds,
        second_search=_second_search(answers),
        overlaps=_overlaps(task, budget, search),
        seconds=round(sum(row.seconds for rows in answers.values() for row in rows), 2),
        device=plain_text(torch.cuda.get_device_name() if accelerator.device.type == "cuda" else "cpu"),
    )
    if accelerator.is_main_process:
        for line in write_report(report, predictions_of(answers, artifact, loaded, search, data.test), target):
            say(line, accelerator)
        journal.unlink(missing_ok=True)
    return report


def _check_controls_are_possible(masks: MaskSet) -> None:
    if chance_overlap(masks, masks) > _MAX_CHANCE_OVERLAP:
        raise ConfigError(
            "the mask keeps or removes almost all weights of each layer, so its controls could not differ from it"
        )


def _report_differences(artifact: Artifact, data: Data, accelerator: Accelerator) -> None:
    searched_on = (artifact.config.info.get("results") or {}).get("dataset")
    if searched_on != data.name:
        say(f"note: the search used {plain_text(str(searched_on))}, the audit uses {data.name}", accelerator)
    processes = recorded_processes(artifact)
    if processes not in (None, accelerator.num_processes):
        say(
            f"note: the search used {processes} processes, the audit uses {accelerator.num_processes}: their global "
            "batch sizes differ",
            accelerator,
        )


def _second_search(answers: Mapping[str, list[RowResult]]) -> SecondSearch:
    found = answers["second_search"]
    return SecondSearch(
        overlap=mean(one.overlap for one in found if one.overlap is not None),
        chance=mean(one.chance for one in found if one.chance is not None),
        agreement=agreement(answers["jackpot_recalibrated"], found),
    )


def _overlaps(task: Task, budget: Budget, search: RunConfig) -> dict[str, Overlap]:
    """Overlap with each criterion's mask at the same layer counts, measured and by chance."""
    masks = task.masks_to_control()
    same_counts = replace(budget, kept=masks.kept_per_layer())
    batches = getattr(search, "criterion_batches", 1)
    found = {}
    for name in criterion_names():
        theirs = start_from(name, task, same_counts, batches=batches).masks
        found[name] = Overlap(overlap=mask_overlap(masks, theirs), chance=chance_overlap(masks, theirs))
    return found


def _calibration_images(task: Task, batch: int) -> int:
    if not norm_statistics(task.base.model):
        return 0
    images = len(task.data.train)
    return min(max(1, CALIBRATION_IMAGES // batch), images // batch) * batch
