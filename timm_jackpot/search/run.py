"""`search_jackpot`: a whole run, from settings to a measured and saved artifact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from timm_jackpot.artifact import (
    Extra,
    Jackpot,
    check_target,
    recover_folder,
)
from timm_jackpot.base import Base, BaseFlags
from timm_jackpot.errors import BaseError, ConfigError, RunInterrupted
from timm_jackpot.methods import Budget, Outcome, Task, build_network, method
from timm_jackpot.runtime.lock import locked
from timm_jackpot.runtime.outputs import check_output, write_atomically
from timm_jackpot.runtime.processes import make_accelerator, say
from timm_jackpot.search.config import RunConfig
from timm_jackpot.search.measure import Accuracies, measure_on_test
from timm_jackpot.search.save import device_name, published_settings, save_run, summary_of
from timm_jackpot.search.task import open_task, steps_of
from timm_jackpot.training import Record, RunState

_RUNNING = "record.partial.jsonl"
_DETERMINISTIC = "the same seed gives the same mask on this machine, bit for bit"
_NOT_QUITE = (
    "cuDNN kernels are deterministic; others (scatter, interpolation, attention backward) may round differently"
)


@dataclass(frozen=True, repr=False)
class SearchResult:
    """A jackpot, its network (a plain module in eval mode), test accuracies, and the summary that the verb prints."""

    jackpot: Jackpot
    model: nn.Module
    comparison: Accuracies
    summary: dict[str, Any]

    def __repr__(self) -> str:
        top1, where = self.comparison.jackpot.top1, self.summary.get("artifact", "saved by the main process")
        sparsity = f"{100 * self.jackpot.masks.sparsity:.2f} %"
        return f"SearchResult({self.jackpot.base.ref.name}, sparsity {sparsity}, top-1 {top1:.2f}, {where})"


def search_jackpot(config: RunConfig, base: Base | None = None) -> SearchResult:
    """Search, measure and save one jackpot, on every process that the launcher started.

    The main process writes the artifact to `config.output` (default: a new folder in runs/).

    Args:
        base: your own base (from `base_from_module` or `load_base`) instead of the one that `config` names. Its model
            is moved to the run's device and put in eval mode, and its parameters stop requiring gradients; its weights
            do not change.

    Raises:
        JackpotError: if the model, the data or the settings are not usable; raised before any training.
    """
    if base is not None:
        config = _without_base(config, base)
    if not method(config.method).finds_jackpots:
        raise ConfigError(
            f"the method {config.method} does not give a mask over the base's own weights, so it cannot be saved as an "
            "artifact: use compare --methods or audit --beside to see its accuracy"
        )
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
        state = RunState(
            output,
            accelerator,
            resume=config.resume,
            every=config.checkpoint_steps,
            overwrite=config.overwrite,
            settings=published_settings(config),
        )
        config = config.model_copy(update={"overwrite": state.overwrite})
        _check_output(config, resumed=state.resumed is not None)
        return _search(config, base, output, state, accelerator)


def _search(
    config: RunConfig, base: Base | None, output: Path, state: RunState, accelerator: Accelerator
) -> SearchResult:
    task, random_weights = open_task(config, base, accelerator)
    steps = steps_of(config, len(task.data.train), accelerator)
    say(_header(config, task, steps, output), accelerator)
    budget = Budget.of(config, steps=steps, seed=config.seed)
    state.identify(
        {
            "base": task.base.ref.digest,
            "data": task.data.name,
            "data_dir": config.data_dir,
            "images": [len(task.data.train), len(task.data.test)],
            "steps": steps,
            "mixed_precision": accelerator.mixed_precision,
            "device": accelerator.device.type,
        }
    )
    record = _open_record(output, state, config, accelerator, steps)
    with state.interruption, _ended(record, output, state, accelerator):
        outcome = method(config.method).run(replace(task, record=record, state=state), budget, config)
        state.after_all_steps()  # a signal need not wait from here on, whatever the method made of it
        jackpot = _jackpot_of(outcome, task, config)
        kept = jackpot.masks.kept_per_layer()
        total = [mask.numel() for mask in jackpot.masks.values()]
        record.write("layers", names=list(kept), kept=list(kept.values()), total=total)
        network = build_network(task, outcome)
        comparison = measure_on_test(network, task, budget)
        summary = summary_of(jackpot, outcome, comparison, task, config, state.seconds)
        record.write("result", **summary)
        if random_weights is not None and accelerator.is_main_process:
            write_atomically(random_base_of(output), random_weights)
        summary |= save_run(jackpot, summary, output, record, config, accelerator)
    return SearchResult(jackpot, network, comparison, summary)


def _header(config: RunConfig, task: Task, steps: int, output: Path) -> str:
    device, data = device_name(task.accelerator.device), task.data
    return (
        f"{config.method}: {task.base.ref.name} on {device}, sparsity {config.sparsity}; {data.name}, "
        f"{len(data.train):,} training and {len(data.test):,} test images; {steps:,} steps of {task.batch_size} "
        f"images; into {output}"
    )


def _jackpot_of(outcome: Outcome, task: Task, config: RunConfig) -> Jackpot:
    assert outcome.masks is not None
    assert all(changed.role != "weights" for changed in outcome.changed.values())
    return Jackpot(
        base=task.base,
        maskable=task.maskable,
        masks=outcome.masks,
        extras={name: Extra(changed.role, changed.tensor) for name, changed in outcome.changed.items()},  # pyright: ignore
        sparsity=str(config.sparsity),
        allocation=config.allocation,
        data=task.data.config,
        labels=task.data.labels if task.base.new_head else None,
    )


@contextmanager
def _ended(record: Record, output: Path, state: RunState, accelerator: Accelerator) -> Iterator[None]:
    """Close the record and the trackers however the run ends; after a failure, say what can be resumed."""
    try:
        yield
    except RunInterrupted:  # its message says how to resume
        raise
    except Exception as error:
        notice = state.kept_notice()
        say(notice, accelerator)
        if notice is None and isinstance(error, (BaseError, ConfigError)):  # refused before any training
            _leave_nothing(record, output, accelerator)
        raise
    finally:
        record.close()
        for (
            tracker
        ) in accelerator.trackers:  # `end_training` would also destroy the process group, which a sweep still needs
            tracker.finish()


def _leave_nothing(record: Record, output: Path, accelerator: Accelerator) -> None:
    record.close()
    if accelerator.is_main_process:
        (output / _RUNNING).unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            output.rmdir()


def _without_base(config: RunConfig, base: Base) -> RunConfig:
    """The settings of a search with a given base, `model` set to the base's architecture."""
    twice = sorted(config.model_fields_set & set(BaseFlags.model_fields))
    if not config.pretrained:
        raise ConfigError("a base was given, but the settings ask for random weights: leave one of them out")
    if twice:
        raise ConfigError(f"a base was given, so the setting {twice[0]} has no effect: {_instead(base)}")
    return config.model_copy(update={"model": base.ref.architecture})


def _instead(base: Base) -> str:
    """What to do instead of giving both a base and settings for it."""
    if base.ref.source != "module":
        return "remove it here and pass it to load_base"
    return (
        "remove it here; to change the classes, replace the module's last layer and pass new_head=True to "
        "base_from_module"
    )


def random_base_of(output: Path) -> Path:
    """The file that holds the random weights of a search with --no-pretrained."""
    return output.with_name(f"{output.name}-base.safetensors")


def _choose_output(config: RunConfig, accelerator: Accelerator) -> Path:
    """The output folder, the same on every rank; checked before anything is loaded."""
    if config.output:
        check_output(config.output)
        if config.resume is None:  # a checkpoint may record that the artifact may be replaced
            _check_output(config)
        return Path(config.output)
    if config.resume == "auto":
        raise ConfigError("--resume auto needs --output, the folder of the stopped run")
    model = config.model.rpartition("/")[2].rpartition(":")[2]
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    fresh = Path("runs") / f"{model[:100]}-{str(config.sparsity)[:20]}-{stamp}"  # file names have at most 255 bytes
    while fresh.exists():
        fresh = fresh.with_name(fresh.name + "x")
    return Path(broadcast_object_list([str(fresh)])[0])


def _check_output(config: RunConfig, *, resumed: bool = False) -> None:
    if not config.output:  # a new folder
        return
    check_target(Path(config.output), overwrite=config.overwrite)
    beside = random_base_of(Path(config.output))
    if not config.pretrained and beside.exists() and not (config.overwrite or resumed):
        raise ConfigError(f"{beside} exists, and the random weights would be saved there: choose another --output")


def _open_record(output: Path, state: RunState, config: RunConfig, accelerator: Accelerator, steps: int) -> Record:
    tracker = published_settings(config) if config.report_to else None
    if not accelerator.is_main_process:
        return state.keep_record(None, tracker)
    try:
        output.mkdir(parents=True, exist_ok=True)
        record = state.keep_record(output / _RUNNING, tracker)
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error.strerror}") from error
    if state.resumed is not None:
        record.write("resume", step=state.resumed.step)
        return record
    record.write(
        "start",
        config=published_settings(config),
        steps=steps,
        processes=accelerator.num_processes,
        distributed_type=accelerator.distributed_type.value,
        mixed_precision=accelerator.mixed_precision,
        device=device_name(accelerator.device),
        torch=torch.__version__,
        deterministic=_DETERMINISTIC if accelerator.device.type == "cpu" else _NOT_QUITE,
        threads=torch.get_num_threads(),
    )
    return record
