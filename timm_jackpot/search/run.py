"""`search_jackpot`: a whole run, from flags to a saved, measured artifact."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from timm.models import split_model_name_tag

from timm_jackpot.artifact import (
    Extra,
    Jackpot,
    artifact_report,
    check_target,
    read_artifact,
    recover_folder,
    save_pretrained,
)
from timm_jackpot.base import (
    Base,
    BaseFlags,
    copy_tensors,
    norm_statistics,
    parse_model_kwargs,
    save_random_weights,
)
from timm_jackpot.data import Data, default_data_notice, open_data, steps_per_epoch
from timm_jackpot.errors import ConfigError, RunInterrupted
from timm_jackpot.evaluation import Accuracy
from timm_jackpot.hub import render_card
from timm_jackpot.lock import locked
from timm_jackpot.masks import chance_overlap, mask_overlap
from timm_jackpot.outputs import check_output, write_atomically
from timm_jackpot.plots import search_figure
from timm_jackpot.processes import make_accelerator, say, shard_of
from timm_jackpot.search.compare import Comparison, compare
from timm_jackpot.search.config import SearchConfig
from timm_jackpot.search.find import find_masks
from timm_jackpot.search.life import Life
from timm_jackpot.search.parts import coverage_notice, divide, has_new_head, idle_head_notice
from timm_jackpot.search.start import Start, start_of, starved_notice
from timm_jackpot.training import (
    Record,
    frozen_teacher,
    make_mixer,
    prepare_model,
    total_steps,
)

_DEFAULT_EPOCHS = 30
CARD, PICTURE = "README.md", "plots/search.png"
_RECORD, _RUNNING = "record.jsonl", "record.partial.jsonl"
_DETERMINISTIC = "the same seed gives the same mask on this machine, bit for bit"
_NOT_QUITE = "cuDNN's deterministic kernels; others (scatter, interpolation, attention backward) may round differently"
# Paths of one machine, which are never published, and what does not bear on the result.
_PRIVATE = {"output", "overwrite", "base_checkpoint", "data_dir", "resume", "checkpoint_steps", "report_to", "timeout"}


@dataclass(frozen=True)
class SearchResult:
    jackpot: Jackpot
    comparison: Comparison
    summary: dict[str, Any]  # what the verb prints as its last line


def search_jackpot(config: SearchConfig, base: Base | None = None) -> SearchResult:
    """Search, measure and save one jackpot, on every process that the launcher started.

    The artifact goes to `config.output` (a fresh folder under runs/ by default), written by the main process.

    Args:
        base: a base of your own (`base_from_module`) instead of the one that `config` names; its model is moved to
            the device of the run, and its norm statistics and whatever is trained beside the mask change.

    Raises:
        JackpotError: for anything wrong with model, data or flags, before any training.
    """
    if base is not None:
        config = _without_base(config, base)
    logs = Path(f"{config.output or 'runs/search'}-logs") if config.report_to else None
    accelerator = make_accelerator(
        seed=config.seed,
        grad_accum_steps=config.grad_accum_steps,
        report_to=config.report_to,
        logs=logs,
        timeout=config.timeout,
    )
    output = _choose_output(config, accelerator)
    with locked(output) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            recover_folder(output)
        accelerator.wait_for_everyone()
        life = Life(
            output,
            accelerator,
            resume=config.resume,
            every=config.checkpoint_steps,
            overwrite=config.overwrite,
            settings=published_settings(config),
        )
        config = config.model_copy(update={"overwrite": life.overwrite})
        _check_output(config, resumed=life.resumed is not None)
        return _search(config, base, output, life, accelerator)


def _search(
    config: SearchConfig, base: Base | None, output: Path, life: Life, accelerator: Accelerator
) -> SearchResult:
    shard = shard_of(accelerator)

    def steps_of(images: int) -> int:
        return total_steps(config, steps_per_epoch(images, config.batch_size, shard), default_epochs=_DEFAULT_EPOCHS)

    with accelerator.main_process_first():
        random_weights = None
        if base is None and config.pretrained:
            base = config.load()
        elif base is None:
            base, random_weights = _load_random_base(config)
        if config.mask_classifier and has_new_head(base):
            raise ConfigError(
                "--mask-classifier and a new head exclude each other: a mask covers pre-trained weights only"
            )
        say(default_data_notice(config, base.model, steps=steps_of), accelerator)
        data = open_data(config, base.model, device=accelerator.device, img_size=config.img_size)
    maskable, trained = divide(config, base, data.config["input_size"])
    say(coverage_notice(base, maskable), accelerator)
    if base.ref.source == "module" and not has_new_head(base):  # of others it is known where their head is from
        say(idle_head_notice(base, data.train, config.batch_size), accelerator)
    steps = steps_of(len(data.train))
    life.identify(
        {
            "base": base.ref.digest,
            "data": data.name,
            "data_dir": config.data_dir,
            "images": [len(data.train), len(data.test)],
            "steps": steps,
            "mixed_precision": accelerator.mixed_precision,
            "device": accelerator.device.type,
        }
    )

    model = base.model.requires_grad_(False).to(accelerator.device)
    prepare_model(config, model)
    for extra in trained.values():
        extra.parameter.requires_grad_(True)
    dense = frozen_teacher(model)  # the base as it came: to distil from, and to compare with at the end
    new_head = has_new_head(base)
    start = start_of(config, maskable, model, data, accelerator)
    if config.allocation == "global":
        say(starved_notice(start), accelerator)
    mix = make_mixer(config, data.num_classes, config.batch_size)
    record = _open_record(output, life, config, accelerator, steps)
    with life.interruption, _ended(record, life, accelerator):
        masks = find_masks(
            model,
            start,
            data,
            config,
            steps=steps,
            trained=[extra.parameter for extra in trained.values()],
            # Beside a new head, or in random weights, the base has no logits worth imitating.
            teacher=dense if config.distill_weight and config.pretrained and not new_head else None,
            mix=mix,
            life=life,
            accelerator=accelerator,
            record=record,
        )
        kept = masks.kept_per_layer()
        record.write("layers", names=list(kept), kept=list(kept.values()), total=[m.numel() for m in masks.values()])
        roles = dict.fromkeys(() if config.freeze_norm_statistics else norm_statistics(model), "norm_statistics")
        roles |= {name: extra.role for name, extra in trained.items()}
        moved = copy_tensors(model, roles)
        comparison = compare(model, dense, masks, maskable, data, config, accelerator, new_head=new_head)
        jackpot = Jackpot(
            base=base,
            maskable=maskable,
            masks=masks,
            extras={name: Extra(roles[name], tensor) for name, tensor in moved.items()},  # pyright: ignore
            sparsity=config.sparsity,
            allocation=config.allocation,
            data=data.config,
            labels=data.labels if new_head else None,
        )
        model.eval()
        summary = _summary(jackpot, comparison, start, data, config, accelerator, steps, life.seconds)
        record.write("result", **summary)
        if random_weights is not None and accelerator.is_main_process:
            write_atomically(random_base_of(output), random_weights)
        summary |= _save(jackpot, summary, output, record, config, accelerator)
    return SearchResult(jackpot, comparison, summary)


@contextmanager
def _ended(record: Record, life: Life, accelerator: Accelerator) -> Iterator[None]:
    """However a run ends: its record and trackers are closed, and people hear of what is kept."""
    try:
        yield
    except RunInterrupted:  # says so itself
        raise
    except Exception:
        say(life.kept_notice(), accelerator)
        raise
    finally:
        record.close()
        for tracker in accelerator.trackers:  # `end_training` would end the process group too, and with it a sweep
            tracker.finish()


def _load_random_base(config: SearchConfig) -> tuple[Base, bytes]:
    """The random counterpart of the base that the settings name, and its weights as a file."""
    if config.base_checkpoint is not None:
        raise ConfigError("--no-pretrained and --base-checkpoint exclude each other")
    architecture, _ = split_model_name_tag(config.model)
    changes = {"num_classes": config.num_classes, "in_chans": config.in_chans, "img_size": config.img_size}
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "random.safetensors"
        save_random_weights(architecture, weights, parse_model_kwargs(config.model_kwargs), **changes)
        base = config.model_copy(update={"base_checkpoint": str(weights), "model": architecture}).load()
        return base, weights.read_bytes()


def _without_base(config: SearchConfig, base: Base) -> SearchConfig:
    """The settings of a search whose base was handed over, named as the base is."""
    twice = sorted(config.model_fields_set & set(BaseFlags.model_fields))
    if not config.pretrained:
        raise ConfigError("a base was handed over, and the settings ask for random weights: leave one of them out")
    if twice:
        raise ConfigError(f"a base was handed over, and the settings name one too ({twice[0]}): {_settled_in(base)}")
    return config.model_copy(update={"model": base.ref.architecture})


def _settled_in(base: Base) -> str:
    """What to do instead of giving settings beside a base."""
    if base.ref.source != "module":
        return "leave it out here, and give it to load_base"
    return (
        "leave it out; base_from_module says what the module is, and for other classes takes one whose last layer was "
        "replaced, with new_head=True"
    )


def random_base_of(output: Path) -> Path:
    """Where the weights of a search with --no-pretrained are kept."""
    return output.with_name(f"{output.name}-base.safetensors")


def _choose_output(config: SearchConfig, accelerator: Accelerator) -> Path:
    """The output folder, the same on every rank; refused before anything is loaded if it may not be used."""
    if config.output:
        check_output(config.output)
        if config.resume is None:  # or else a checkpoint may know what may be replaced
            _check_output(config)
        return Path(config.output)
    if config.resume == "auto":
        raise ConfigError("--resume auto needs --output, the folder of the run that was stopped")
    model = config.model.rpartition("/")[2].rpartition(":")[2]
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    fresh = Path("runs") / f"{model[:100]}-{config.sparsity[:20]}-{stamp}"  # a file's name has 255 bytes
    while fresh.exists():
        fresh = fresh.with_name(fresh.name + "x")
    return Path(broadcast_object_list([str(fresh)])[0])


def _check_output(config: SearchConfig, *, resumed: bool = False) -> None:
    if not config.output:  # a fresh one
        return
    check_target(Path(config.output), overwrite=config.overwrite)
    beside = random_base_of(Path(config.output))
    if not config.pretrained and beside.exists() and not (config.overwrite or resumed):
        raise ConfigError(f"{beside} exists, where the random weights would go: name another --output")


def _open_record(output: Path, life: Life, config: SearchConfig, accelerator: Accelerator, steps: int) -> Record:
    tracker = published_settings(config) if config.report_to else None
    if not accelerator.is_main_process:
        return life.keep_record(None, tracker)
    try:
        output.mkdir(parents=True, exist_ok=True)
        record = life.keep_record(output / _RUNNING, tracker)
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error.strerror}") from error
    if life.resumed is not None:
        record.write("resume", step=life.resumed.step)
        return record
    record.write(
        "start",
        config=published_settings(config),
        steps=steps,
        processes=accelerator.num_processes,
        distributed_type=accelerator.distributed_type.value,
        mixed_precision=accelerator.mixed_precision,
        device=_device_name(accelerator.device),
        torch=torch.__version__,
        deterministic=_DETERMINISTIC if accelerator.device.type == "cpu" else _NOT_QUITE,
        threads=torch.get_num_threads(),
    )
    return record


def _summary(
    jackpot: Jackpot,
    comparison: Comparison,
    start: Start,
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
        "unreadable_images": len({name for names in gather_object([sorted(data.unreadable.names)]) for name in names}),
        "overlap_start": mask_overlap(jackpot.masks, start.masks),
        "overlap_chance": chance_overlap(jackpot.masks, start.masks),
        "steps": steps,
        "seconds": round(seconds, 2),
        "seed": config.seed,
        "processes": accelerator.num_processes,
        "device": _device_name(accelerator.device),
        "mask_hash": jackpot.masks.hash(),
    }


def published_settings(config: SearchConfig, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """The settings without this machine's paths, as an artifact's recipe.yaml has them."""
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
    settings = published_settings(config, exclude_defaults=True)
    jackpot.info.update(results=summary, config=settings)
    attachments = {
        _RECORD: record.lines().encode(),
        "recipe.yaml": yaml.safe_dump(published_settings(config), sort_keys=False).encode(),
    }
    if find_spec("matplotlib"):
        attachments[PICTURE] = search_figure(record)
    save_pretrained(jackpot, output, encoding=config.encoding, attachments=attachments, overwrite=config.overwrite)
    artifact = read_artifact(output)  # what was written, read back
    artifact.masks_on(jackpot.base)
    pictures = (PICTURE,) if PICTURE in attachments else ()
    write_atomically(output / CARD, render_card(artifact, pictures=pictures).encode())
    report = artifact_report(artifact)
    return {
        "artifact": str(output),
        "artifact_bytes": sum(report["bytes"].values()),
        "mask_bytes": report["bytes"]["masks.safetensors"],
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
