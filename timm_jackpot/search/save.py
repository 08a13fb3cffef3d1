"""Save the results of a search: its figures, its settings, and the artifact with its card."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from timm_jackpot.artifact import Artifact, Jackpot, artifact_report, read_artifact, save_pretrained
from timm_jackpot.errors import ConfigError
from timm_jackpot.evaluation import Accuracy
from timm_jackpot.hub import render_card
from timm_jackpot.masks import chance_overlap, mask_overlap
from timm_jackpot.methods import Outcome, Task, method
from timm_jackpot.plots import mask_figure, search_figure
from timm_jackpot.runtime.outputs import write_atomically
from timm_jackpot.runtime.processes import device_name
from timm_jackpot.search.config import PRESETS, RunConfig, SearchConfig
from timm_jackpot.search.measure import Accuracies
from timm_jackpot.training import UNPUBLISHED, Record

CARD = "README.md"
_RECORD = "record.jsonl"


def fresh_output(config: RunConfig) -> Path:
    """A new folder in runs/, the same on every rank.

    Raises:
        ConfigError: if a run should be resumed, which needs a folder.
    """
    if config.resume == "auto":
        raise ConfigError("--resume auto needs --output, the folder of the stopped run")
    model = config.model.rpartition("/")[2].rpartition(":")[2]
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    fresh = Path("runs") / f"{model[:100]}-{str(config.sparsity)[:20]}-{stamp}"  # file names have at most 255 bytes
    while fresh.exists():
        fresh = fresh.with_name(fresh.name + "x")
    return Path(broadcast_object_list([str(fresh)])[0])


def summary_of(
    jackpot: Jackpot, outcome: Outcome, comparison: Accuracies, task: Task, config: RunConfig, seconds: float
) -> dict[str, Any]:
    kept_all, total_all = jackpot.kept_of_all
    unreadable = gather_object([sorted(task.data.unreadable.names)])

    def top1(accuracy: Accuracy | None) -> float | None:
        return None if accuracy is None else accuracy.top1

    return {
        "model": jackpot.base.ref.name,
        "method": config.method,
        "dataset": task.data.name,
        "sparsity": jackpot.masks.sparsity,
        "sparsity_all_parameters": 1 - kept_all / total_all,
        "dense_top1": top1(comparison.dense),
        "magnitude_top1": top1(comparison.magnitude),
        "magnitude_recalibrated_top1": top1(comparison.magnitude_recalibrated),
        "jackpot_top1": comparison.jackpot.top1,
        "jackpot_top5": comparison.jackpot.top5,
        "test_images": comparison.jackpot.n,
        "unreadable_images": len({name for names in unreadable for name in names}),
        "overlap_start": mask_overlap(jackpot.masks, outcome.start) if outcome.start else None,
        "overlap_chance": chance_overlap(jackpot.masks, outcome.start) if outcome.start else None,
        "steps": outcome.steps,
        "seconds": round(seconds, 2),
        "seed": config.seed,
        "processes": task.accelerator.num_processes,
        "device": device_name(task.accelerator.device),
        "mask_hash": jackpot.masks.hash(),
    }


def published_settings(config: RunConfig, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """The settings without paths on this machine, as written to an artifact's recipe.yaml."""
    settings = config.model_dump(mode="json", exclude=UNPUBLISHED)
    if config.model.startswith("local-dir:"):
        settings["model"] = "local-dir:FOLDER"
    if not exclude_defaults:
        return settings
    telling = _telling(config)
    return {key: value for key, value in settings.items() if key in telling}


def _telling(config: RunConfig) -> set[str]:
    """The settings from which the others follow: no search's default, or set by the preset or the method."""
    fields = {**type(config).model_fields, **SearchConfig.model_fields}
    chosen = {name for name in type(config).model_fields if getattr(config, name) != fields[name].default}
    return chosen | {*method(config.method).defaults} | {*PRESETS.get(getattr(config, "preset", "default"), {})}


def save_run(
    jackpot: Jackpot,
    summary: dict[str, Any],
    output: Path,
    record: Record,
    config: RunConfig,
    accelerator: Accelerator,
) -> dict[str, Any]:
    if not accelerator.is_main_process:
        return {}
    # Only settings that differ from the defaults; recipe.yaml has all of them.
    settings = published_settings(config, exclude_defaults=True)
    jackpot.info.update(results=summary, config=settings)
    attachments = {
        _RECORD: record.lines().encode(),
        "recipe.yaml": yaml.safe_dump(published_settings(config), sort_keys=False).encode(),
    }
    pictures: dict[str, bytes] = {}
    if find_spec("matplotlib"):
        pictures["plots/search.png"] = search_figure(record)
        pictures["plots/mask.png"] = mask_figure(jackpot.masks, jackpot.maskable.weights)
    save_pretrained(
        jackpot,
        output,
        encoding=config.encoding,
        extras_dtype=config.extras_dtype,
        attachments=attachments | pictures,
        overwrite=config.overwrite,
    )
    artifact = read_artifact(output)  # read back what was written
    artifact.masks_on(jackpot.base)
    write_atomically(output / CARD, render_card(artifact, pictures=tuple(sorted(pictures))).encode())
    return size_summary(artifact)


def size_summary(artifact: Artifact) -> dict[str, Any]:
    """Where the artifact is and what it takes: the part of a run's summary that is known when it is saved."""
    report = artifact_report(artifact)
    return {
        "artifact": str(artifact.folder),
        "artifact_bytes": sum(report["bytes"].values()),
        "mask_bytes": report["bytes_by_kind"]["mask"],
        "bytes_by_kind": report["bytes_by_kind"],
    }
