"""`search_jackpot`: a whole run, from flags to a saved, measured artefact."""

from __future__ import annotations

import itertools
import platform
import time
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from timm_jackpot.adapter import merge
from timm_jackpot.artefact import Extra, Jackpot, artefact_report, check_target, read_artefact, save_pretrained
from timm_jackpot.base import (
    Base,
    BaseFlags,
    Maskable,
    classifier_parameters,
    copy_tensors,
    maskable_weights,
    norm_statistics,
)
from timm_jackpot.data import Data, default_data_notice, open_data, steps_per_epoch
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.hub import render_card
from timm_jackpot.masks import MaskSet
from timm_jackpot.plots import search_figure
from timm_jackpot.processes import make_accelerator, say, shard_of
from timm_jackpot.search.config import SearchConfig
from timm_jackpot.search.find import find_masks, start_of
from timm_jackpot.training import (
    Record,
    frozen_teacher,
    prepare_model,
    reestimate_norm_statistics,
    total_steps,
)

_DEFAULT_EPOCHS = 30
_CALIBRATION_IMAGES, _CALIBRATION_SEED = 10_000, 2021
_RECORD, _RUNNING = "record.jsonl", "record.partial.jsonl"
_PICTURE = "plots/search.png"
_PRIVATE = {"output", "overwrite", "base_checkpoint", "data_dir"}  # paths of one machine: never published


@dataclass(frozen=True)
class Comparison:
    """Top-1 on the test split, one figure per model; None where a new head leaves nothing to compare."""

    jackpot: Accuracy
    dense: Accuracy | None
    magnitude: Accuracy | None
    magnitude_recalibrated: Accuracy | None


@dataclass(frozen=True)
class SearchResult:
    jackpot: Jackpot
    comparison: Comparison
    summary: dict[str, Any]  # what the verb prints as its last line


def search_jackpot(config: SearchConfig, base: Base | None = None) -> SearchResult:
    """Search, measure and save one jackpot, on every process that the launcher started.

    The artefact goes to `config.output` (a fresh folder under runs/ by default), written by the main process.

    Args:
        base: a base of your own (`base_from_module`) instead of the one that `config` names; its model is moved to
            the device of the run and its norm statistics change.

    Raises:
        JackpotError: for anything wrong with model, data or flags, before any training.
    """
    started = time.monotonic()
    if base is not None:
        config = _without_base(config, base)
    accelerator = make_accelerator(seed=config.seed, grad_accum_steps=config.grad_accum_steps)
    output = _choose_output(config, accelerator)
    shard = shard_of(accelerator)

    def steps_of(images: int) -> int:
        return total_steps(config, steps_per_epoch(images, config.batch_size, shard), default_epochs=_DEFAULT_EPOCHS)

    with accelerator.main_process_first():
        base = base or config.load()
        head = _new_head(base)
        if head and config.mask_classifier:
            raise ConfigError(
                "--mask-classifier and a new head exclude each other: a mask covers pre-trained weights only"
            )
        say(default_data_notice(config, base.model, steps=steps_of), accelerator)
        data = open_data(config, base.model, device=accelerator.device, img_size=config.img_size)
    maskable = maskable_weights(
        base.model,
        mask_classifier=config.mask_classifier,
        include=config.include,
        exclude=config.exclude,
        images=torch.zeros(2, *data.config["input_size"]),
    )
    if not maskable.weights:
        reasons = sorted({weight.reason for weight in maskable.dense}) or ["it has no conv or linear layer"]
        raise BaseError(f"{base.ref.name} has nothing to mask: {'; '.join(reasons)}")
    say(_coverage_notice(base, maskable), accelerator)
    steps = steps_of(len(data.train))

    model = base.model.requires_grad_(False).to(accelerator.device)
    prepare_model(config, model)
    for parameter in head.values():
        parameter.requires_grad_(True)
    dense = frozen_teacher(model)  # the base as it came, to compare with at the end
    start = start_of(config, maskable)
    record = _open_record(output, config, accelerator, steps)
    try:
        masks = find_masks(
            model,
            start,
            data,
            config,
            steps=steps,
            trained=list(head.values()),
            accelerator=accelerator,
            record=record,
        )
        kept = masks.kept_per_layer()
        record.write("layers", names=list(kept), kept=list(kept.values()), total=[m.numel() for m in masks.values()])
        moved = [*norm_statistics(model), *head]
        extras = copy_tensors(model, moved)
        comparison = _compare(model, dense, masks, maskable, data, config, accelerator, new_head=bool(head))
        jackpot = Jackpot(
            base=base,
            maskable=maskable,
            masks=masks,
            extras={n: Extra("head" if n in head else "norm_statistics", t) for n, t in extras.items()},
            sparsity=config.sparsity,
            allocation=config.allocation,
            data=data.config,
        )
        model.eval()
        summary = _summary(jackpot, comparison, data, config, accelerator, steps, time.monotonic() - started)
        record.write("result", **summary)
        summary |= _save(jackpot, summary, output, record, config, accelerator)
    finally:
        record.close()
    return SearchResult(jackpot, comparison, summary)


def _without_base(config: SearchConfig, base: Base) -> SearchConfig:
    """The settings of a search whose base was handed over, named as the base is."""
    twice = sorted(config.model_fields_set & set(BaseFlags.model_fields))
    if twice:
        raise ConfigError(f"a base was handed over, and the settings name one too ({twice[0]}): leave one of them out")
    return config.model_copy(update={"model": base.ref.architecture})


def _coverage_notice(base: Base, maskable: Maskable) -> str | None:
    """A word where the masks reach less than half of the parameters."""
    covered, total = sum(maskable.sizes.values()), sum(p.numel() for p in base.model.parameters())
    if 2 * covered >= total:
        return None
    reasons = Counter(weight.reason for weight in maskable.dense)
    why = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))
    return f"note: masks cover {100 * covered / total:.1f} % of the parameters of {base.ref.name}; left dense: {why}"


def _choose_output(config: SearchConfig, accelerator: Accelerator) -> Path:
    """The output folder, the same on every rank; refused before anything is loaded if it may not be used."""
    if config.output:
        check_target(Path(config.output), overwrite=config.overwrite)
        return Path(config.output)
    model = config.model.rpartition("/")[2].rpartition(":")[2]
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    fresh = Path("runs") / f"{model}-{config.sparsity}-{stamp}"
    while fresh.exists():
        fresh = fresh.with_name(fresh.name + "x")
    return Path(broadcast_object_list([str(fresh)])[0])


def _new_head(base: Base) -> dict[str, nn.Parameter]:
    """Parameters of a re-initialised head: the adapted ones that belong to the classifier."""
    return {name: p for name, p in classifier_parameters(base.model).items() if name in base.adapted}


def _open_record(output: Path, config: SearchConfig, accelerator: Accelerator, steps: int) -> Record:
    if not accelerator.is_main_process:
        return Record()
    try:
        output.mkdir(parents=True, exist_ok=True)
        record = Record(output / _RUNNING)
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error.strerror}") from error
    record.write(
        "start",
        config=_published(config),
        steps=steps,
        processes=accelerator.num_processes,
        distributed_type=accelerator.distributed_type.value,
        mixed_precision=accelerator.mixed_precision,
        device=_device_name(accelerator.device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )
    return record


def _compare(
    model: nn.Module,
    dense: nn.Module,
    masks: MaskSet,
    maskable: Maskable,
    data: Data,
    config: SearchConfig,
    accelerator: Accelerator,
    *,
    new_head: bool,
) -> Comparison:
    """Read the test split, once, for the jackpot and what it is to be compared with."""

    def accuracy(candidate: nn.Module) -> Accuracy:
        return evaluate_accuracy(candidate, data.test, batch_size=config.batch_size, accelerator=accelerator)

    jackpot = accuracy(merge(deepcopy(model), masks))
    if new_head:
        return Comparison(jackpot, None, None, None)
    magnitude_masks = start_of(config.model_copy(update={"criterion": "magnitude"}), maskable).masks
    one_shot = merge(deepcopy(dense), magnitude_masks)
    magnitude = accuracy(one_shot)
    calibrate(one_shot, data, config.batch_size, accelerator)
    return Comparison(jackpot, accuracy(dense), magnitude, accuracy(one_shot))


def calibrate(model: nn.Module, data: Data, batch_size: int, accelerator: Accelerator) -> None:
    """Re-estimate norm statistics on up to 10,000 training images, in the order of a training epoch of its own."""
    shard = shard_of(accelerator)
    count = max(1, _CALIBRATION_IMAGES // (batch_size * shard.count))
    batches = data.train.train_batches(seed=_CALIBRATION_SEED, epoch=0, batch_size=batch_size, shard=shard)
    reestimate_norm_statistics(model, (batch.images for batch in itertools.islice(batches, count)), accelerator)


def _summary(
    jackpot: Jackpot,
    comparison: Comparison,
    data: Data,
    config: SearchConfig,
    accelerator: Accelerator,
    steps: int,
    seconds: float,
) -> dict[str, Any]:
    kept_all, total_all = jackpot.kept_of_all

    def top1(accuracy: Accuracy | None) -> float | None:
        return None if accuracy is None else accuracy.top1

    return {
        "model": jackpot.base.ref.name,
        "dataset": data.name,
        "sparsity": 1 - jackpot.masks.kept / jackpot.masks.total,
        "sparsity_all_parameters": 1 - kept_all / total_all,
        "dense_top1": top1(comparison.dense),
        "magnitude_top1": top1(comparison.magnitude),
        "magnitude_recalibrated_top1": top1(comparison.magnitude_recalibrated),
        "jackpot_top1": comparison.jackpot.top1,
        "test_images": comparison.jackpot.n,
        "steps": steps,
        "seconds": round(seconds, 2),
        "seed": config.seed,
        "processes": accelerator.num_processes,
        "device": _device_name(accelerator.device),
        "mask_hash": jackpot.masks.hash(),
    }


def _published(config: SearchConfig, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """The settings without this machine's paths."""
    settings = config.model_dump(mode="json", exclude=_PRIVATE, exclude_defaults=exclude_defaults)
    if config.model.startswith("local-dir:"):
        settings["model"] = "local-dir:FOLDER"
    return settings


def _save(
    jackpot: Jackpot,
    summary: dict[str, Any],
    output: Path,
    record: Record,
    config: SearchConfig,
    accelerator: Accelerator,
) -> dict[str, Any]:
    if not accelerator.is_main_process:
        return {}
    # The settings that differ from the defaults; recipe.yaml has all of them.
    settings = _published(config, exclude_defaults=True)
    jackpot.info.update(results=summary, config=settings)
    attachments = {
        _RECORD: record.lines().encode(),
        "recipe.yaml": yaml.safe_dump(_published(config), sort_keys=False).encode(),
    }
    if find_spec("matplotlib"):
        attachments[_PICTURE] = search_figure(record)
    save_pretrained(jackpot, output, attachments=attachments, overwrite=config.overwrite)
    artefact = read_artefact(output)  # what was written, read back
    pictures = (_PICTURE,) if _PICTURE in attachments else ()
    (output / "README.md").write_text(render_card(artefact, pictures=pictures), encoding="utf-8")
    report = artefact_report(artefact)
    return {
        "artefact": str(output),
        "artefact_bytes": sum(report["bytes"].values()),
        "mask_bytes": report["bytes"]["masks.safetensors"],
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
