"""`audit_jackpot`: a whole audit, from an artifact to its report."""

from __future__ import annotations

import re
import time
from statistics import mean, stdev
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_jackpot.artifact import Artifact, open_artifact
from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.controls import (
    checked,
    checked_weights,
    permuted_across,
    permuted_within,
    random_masks,
    reinitialised,
    smallest_weights,
)
from timm_jackpot.audit.judge import Judge
from timm_jackpot.audit.searches import covered, search_again
from timm_jackpot.audit.settings import search_settings, searched_in_processes
from timm_jackpot.audit.write import choose_target, write_report
from timm_jackpot.base import norm_statistics
from timm_jackpot.data import Data, default_data_notice, open_data, shared_images, steps_per_epoch
from timm_jackpot.errors import ConfigError
from timm_jackpot.evidence import (
    CONTROLS,
    AuditReport,
    LayerDensity,
    Measured,
    Overlap,
    SecondSearch,
    Tested,
    judged,
    paired_intervals,
)
from timm_jackpot.masks import MaskSet, chance_overlap, keep_largest, mask_overlap
from timm_jackpot.processes import make_accelerator, say, shard_of
from timm_jackpot.search import SearchConfig
from timm_jackpot.search.compare import CALIBRATION_IMAGES
from timm_jackpot.search.start import start_of
from timm_jackpot.training import total_steps

_CRITERIA = ("magnitude", "snip", "grasp", "synflow", "random")
# The paper's margins (Sec. 2.2), by what the data are called; the first that matches.
_MARGINS = ((r"cifar-?100|tiny-?imagenet", 1.0), (r"imagenet", 1.5))
_USUAL_MARGIN = 0.5
_MOST_ALIKE = 0.999  # chance overlap of a mask with itself: beyond, no control of it can differ


def audit_jackpot(config: AuditConfig, base: nn.Module | None = None) -> AuditReport:
    """Judge a jackpot beside its controls on the test split, and write the report.

    audit.json, pictures and a fresh card go to the artifact's own folder, or audit.json, audit.md and pictures to
    `config.output`; by the main process, at the end.

    Args:
        base: the module that the artifact was searched in, where it is one of its author's own.

    Raises:
        JackpotError: if artifact, base or data are not usable, before anything is searched; or a control is broken.
    """
    started = time.monotonic()
    accelerator = make_accelerator(seed=0)
    target = choose_target(config)
    with accelerator.main_process_first():
        artifact, loaded = open_artifact(
            config.artifact,
            base_checkpoint=config.base_checkpoint,
            base=base,
            revision=config.revision,
            trust_base=config.trust_base,
        )
        masks = artifact.masks_on(loaded)
        _refuse_what_controls_cannot_follow(artifact, masks)
        search = search_settings(artifact, config)
        described = getattr(loaded.model, "pretrained_cfg", None) or {}
        loaded.model.pretrained_cfg = {**described, **artifact.config.data.model_dump()}  # pyright: ignore
        say(default_data_notice(search, loaded.model), accelerator)
        data = open_data(search, loaded.model, device=accelerator.device)
    _say_what_differs(artifact, data, accelerator)
    accelerator.gradient_accumulation_steps = search.grad_accum_steps
    shard = shard_of(accelerator)
    steps = total_steps(search, steps_per_epoch(len(data.train), search.batch_size, shard), default_epochs=1)
    dense = loaded.model.requires_grad_(False).to(accelerator.device).eval()
    seeds = [(search.seed + 1 + i) % 2**31 for i in range(config.seeds)]
    expected = 7 + 6 * len(seeds)
    judge = Judge(dense, data, batch_size=search.batch_size, accelerator=accelerator, expected=expected)
    leaked = shared_images(data.test, [data.train, *([data.val] if data.val is not None else [])])

    _ask_fixed(judge, artifact, masks, dense, data, search, accelerator)
    _ask_drawn(judge, masks, dense, seeds)
    found = _ask_searched(judge, masks, dense, data, search, steps, seeds, accelerator)

    tested = Tested(
        dataset=_plain(data.name),
        train_images=len(data.train),
        test_images=len(judge.answers["dense"][0].labels),
        calibration_images=_calibration_images(dense, data, search.batch_size * shard.count),
        leaked_test_images=leaked,
    )
    margin = config.similar_margin if config.similar_margin is not None else similar_margin(data.name)
    report = AuditReport(
        **_judgement(judge, artifact, tested, margin),
        format=2,
        controls=list(CONTROLS),
        producer=_producer(),
        base=_plain(loaded.ref.name),
        mask_hash=masks.hash(),
        steps=steps,
        seeds=seeds,
        second_search=_second_search(judge, masks, found),
        overlaps=_overlaps(masks, dense, data, search, accelerator),
        seconds=round(time.monotonic() - started, 2),
        device=_plain(torch.cuda.get_device_name() if accelerator.device.type == "cuda" else "cpu"),
    )
    if accelerator.is_main_process:
        for line in write_report(report, target):
            say(line, accelerator)
    return report


def similar_margin(dataset: str) -> float:
    """Points behind dense that the paper still calls similar, by the name of the data."""
    return next((margin for pattern, margin in _MARGINS if re.search(pattern, dataset.lower())), _USUAL_MARGIN)


def _refuse_what_controls_cannot_follow(artifact: Artifact, masks: MaskSet) -> None:
    trained = next((extra for extra in artifact.config.extras if extra.role != "norm_statistics"), None)
    if trained is not None:
        raise ConfigError(
            f"the artifact trains {trained.name} beside its mask: no control had that chance, so that only jackpots "
            "whose mask and norm statistics alone moved can be audited"
        )
    if chance_overlap(masks, masks) > _MOST_ALIKE:
        raise ConfigError("the mask removes next to nothing of each layer, or next to all: no control of it can differ")


def _say_what_differs(artifact: Artifact, data: Data, accelerator: Accelerator) -> None:
    searched_on = (artifact.config.info.get("results") or {}).get("dataset")
    if searched_on != data.name:
        say(f"note: the search ran on {_plain(str(searched_on))}, the audit runs on {data.name}", accelerator)
    processes = searched_in_processes(artifact)
    if processes not in (None, accelerator.num_processes):
        say(
            f"note: the search ran in {processes} processes, the audit's searches in {accelerator.num_processes}: "
            "their batches are of another size",
            accelerator,
        )


def _ask_fixed(
    judge: Judge,
    artifact: Artifact,
    masks: MaskSet,
    dense: nn.Module,
    data: Data,
    search: SearchConfig,
    accelerator: Accelerator,
) -> None:
    """What no seed changes."""
    by_magnitude = search.model_copy(update={"criterion": "magnitude"})
    magnitude = start_of(by_magnitude, covered(dense, masks), dense, data, accelerator).masks
    smallest = checked("smallest", smallest_weights(masks, covered(dense, masks).weights), masks)
    judge.announce("dense")
    judge.ask("dense", recalibrate=False)
    judge.announce("dense_recalibrated")
    judge.ask("dense_recalibrated")
    judge.announce("jackpot")
    judge.ask("jackpot", masks, tensors=artifact.extras, recalibrate=False)
    judge.announce("jackpot_recalibrated")
    judge.ask("jackpot_recalibrated", masks)
    judge.announce("magnitude")
    judge.ask("magnitude", magnitude, recalibrate=False)
    judge.announce("magnitude_recalibrated")
    judge.ask("magnitude_recalibrated", magnitude)
    judge.announce("smallest")
    judge.ask("smallest", smallest)


def _ask_drawn(judge: Judge, masks: MaskSet, dense: nn.Module, seeds: list[int]) -> None:
    weights: dict[str, Tensor] = {name: weight.detach() for name, weight in covered(dense, masks).weights.items()}
    for seed in seeds:
        drawn = {
            "permuted_within": checked("permuted_within", permuted_within(masks, seed=seed), masks),
            "permuted_across": checked("permuted_across", permuted_across(masks, seed=seed), masks, by_layer=False),
            "random": checked("random", random_masks(masks, seed=seed), masks),
        }
        for name, control in drawn.items():
            judge.announce(name, seed)
            judge.ask(name, control)
        judge.announce("reinitialised", seed)
        fresh = checked_weights("reinitialised", reinitialised(weights, seed=seed), weights)
        judge.ask("reinitialised", masks, tensors=fresh)


def _ask_searched(
    judge: Judge,
    masks: MaskSet,
    dense: nn.Module,
    data: Data,
    search: SearchConfig,
    steps: int,
    seeds: list[int],
    accelerator: Accelerator,
) -> list[MaskSet]:
    """The searches; returns the masks of those whose labels were sound."""
    found = []
    for seed in seeds:
        for name, shuffle in (("second_search", False), ("shuffled_labels", True)):
            judge.announce(name, seed)
            again = search_again(
                dense, masks, data, search, steps=steps, seed=seed, shuffle_labels=shuffle, accelerator=accelerator
            )
            judge.ask(name, again)
            if not shuffle:
                found.append(again)
    return found


def _judgement(judge: Judge, artifact: Artifact, tested: Tested, margin: float) -> dict[str, Any]:
    """Accuracies, differences, and what follows from them: the fields of the report."""
    jackpot, behind = "jackpot_recalibrated", ("dense", "jackpot")
    shuffled = ("shuffled_labels", "magnitude_recalibrated")
    ahead = {name: (jackpot, name) for name in ("second_search", *CONTROLS)}
    top1, differences = paired_intervals(judge.correct(), [behind, shuffled, *ahead.values()])
    models: dict[str, Measured] = {}
    for name, several in judge.answers.items():
        accuracies = [100 * found.correct.double().mean().item() for found in several]
        models[name] = Measured(
            top1=top1[name],
            std=stdev(accuracies) if len(accuracies) > 1 else None,
            n=len(accuracies),
            jackpot_ahead=differences[ahead[name]] if name in ahead else None,
        )
    layers = [LayerDensity(name=layer.name, kept=layer.kept, total=layer.total) for layer in artifact.config.layers]
    figures = {
        "behind_dense": differences[behind],
        "shuffled_ahead": differences[shuffled],
        "similar_margin": margin,
    }
    controls = {name: models[name] for name in CONTROLS}
    principles, verdict = judged(layers, controls, tested, **figures)
    return {
        **figures,
        "models": models,
        "layers": layers,
        "data": tested,
        "principles": principles,
        "verdict": verdict,
    }


def _second_search(judge: Judge, masks: MaskSet, found: list[MaskSet]) -> SecondSearch:
    return SecondSearch(
        overlap=mean(mask_overlap(masks, other) for other in found),
        chance=mean(chance_overlap(masks, other) for other in found),
        agreement=judge.agreement("jackpot_recalibrated", "second_search"),
    )


def _overlaps(
    masks: MaskSet, dense: nn.Module, data: Data, search: SearchConfig, accelerator: Accelerator
) -> dict[Any, Overlap]:
    """With each criterion's mask of the same layer counts, beside chance."""
    kept, found = masks.kept_per_layer(), {}
    for criterion in _CRITERIA:
        config = search.model_copy(update={"criterion": criterion})
        values = start_of(config, covered(dense, masks), dense, data, accelerator).criterion
        theirs = MaskSet({name: keep_largest(values[name], kept[name]) for name in masks})
        found[criterion] = Overlap(overlap=mask_overlap(masks, theirs), chance=chance_overlap(masks, theirs))
    return found


def _calibration_images(dense: nn.Module, data: Data, batch: int) -> int:
    if not norm_statistics(dense):
        return 0
    return min(max(1, CALIBRATION_IMAGES // batch), len(data.train) // batch) * batch


def _producer() -> Any:
    from timm_jackpot import __version__
    from timm_jackpot.artifact.schema import Producer

    return Producer(name="timm_jackpot", version=__version__)


def _plain(text: str) -> str:
    """Text as a report may hold it."""
    return re.sub(r"[^\w ./:()+@-]", "", text)[:200] or "unknown"
