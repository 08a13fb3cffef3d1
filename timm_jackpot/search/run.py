"""`search_jackpot`: a whole run, from settings to a measured and saved artifact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from timm_jackpot.artifact import Extra, ExtrasDtype, Jackpot, artifact_digest, check_target, rounded_extra
from timm_jackpot.base import Base, BaseFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.methods import Budget, Outcome, Task, build_network, method
from timm_jackpot.methods.budget import n_of_m
from timm_jackpot.runtime.outputs import check_output, write_atomically
from timm_jackpot.runtime.processes import say
from timm_jackpot.search.auto_sparsity import choose_sparsity
from timm_jackpot.search.config import NEW_HEAD_SPARSITY, RunConfig
from timm_jackpot.search.measure import Accuracies, measure_on_test
from timm_jackpot.search.save import fresh_output, published_settings, save_run, summary_of
from timm_jackpot.search.task import open_task, steps_of
from timm_jackpot.training import RunState, open_run, run_accelerator


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
            f"the method {config.method} does not give a mask that an artifact can hold: train_ticket saves tickets, "
            "compare --methods and audit --beside show the accuracy of all methods"
        )
    accelerator = run_accelerator(config, config.output or "runs/search", can_shard=True)
    output = _choose_output(config)
    with open_run(output, accelerator, config, settings=_searched_by(config), digest=artifact_digest) as state:
        config = config.model_copy(update={"overwrite": state.overwrite})
        _check_output(config, resumed=state.resumed is not None)
        return _search(config, base, output, state, accelerator)


def _search(
    config: RunConfig, base: Base | None, output: Path, state: RunState, accelerator: Accelerator
) -> SearchResult:
    task, random_weights = open_task(config, base, accelerator)
    steps = steps_of(config, len(task.data.train), accelerator)
    budget = Budget.of(config, steps=steps, seed=config.seed)
    subject = f"{config.method}: {task.base.ref.name}, sparsity {config.sparsity}"
    if task.base.new_head and config.sparsity == NEW_HEAD_SPARSITY:
        say(f"note: with a new head, sparsity {NEW_HEAD_SPARSITY} is the default", accelerator)
    state.begin(subject, task.data, config, steps, base=task.base.ref.digest)
    with state.recorded() as record:
        task_of_run = replace(task, record=record, state=state)
        budget = choose_sparsity(task_of_run, budget, config)
        outcome = method(config.method).run(task_of_run, budget, config)
        state.after_all_steps()  # a signal need not wait from here on, whatever the method made of it
        outcome = _as_stored(outcome, config.extras_dtype)
        jackpot = _jackpot_of(outcome, task, budget)
        kept = jackpot.masks.kept_per_layer()
        total = [mask.numel() for mask in jackpot.masks.values()]
        record.write("layers", names=list(kept), kept=list(kept.values()), total=total)
        network = build_network(task, outcome)
        comparison = measure_on_test(network, task, budget, config)
        summary = summary_of(jackpot, outcome, comparison, task, config, state.seconds)
        record.write("result", **summary)
        if random_weights is not None and accelerator.is_main_process:
            write_atomically(random_base_of(output), random_weights)
        summary |= save_run(jackpot, summary, output, record, config, accelerator)
    return SearchResult(jackpot, network, comparison, summary)


def _as_stored(outcome: Outcome, dtype: ExtrasDtype) -> Outcome:
    """The outcome with the values that the artifact will hold: what is measured is what is saved."""
    changed = {
        name: entry._replace(tensor=rounded_extra(name, entry.role, entry.tensor, dtype))
        for name, entry in outcome.changed.items()
    }
    return replace(outcome, changed=changed)


def _searched_by(config: RunConfig) -> dict[str, Any]:
    """The settings that a resumed run must share: not how the result is stored."""
    stored_by = {"encoding", "extras_dtype"}
    return {key: value for key, value in published_settings(config).items() if key not in stored_by}


def _jackpot_of(outcome: Outcome, task: Task, budget: Budget) -> Jackpot:
    assert outcome.masks is not None
    assert all(changed.role != "weights" for changed in outcome.changed.values())
    return Jackpot(
        base=task.base,
        maskable=task.maskable,
        masks=outcome.masks,
        extras={name: Extra(changed.role, changed.tensor) for name, changed in outcome.changed.items()},  # pyright: ignore
        sparsity=budget.sparsity,
        allocation=budget.allocation,
        data=task.data.config,
        labels=task.data.labels if task.base.new_head else None,
    )


def _without_base(config: RunConfig, base: Base) -> RunConfig:
    """The settings of a search with a given base, `model` set to the base's architecture."""
    twice = sorted(config.model_fields_set & set(BaseFlags.model_fields))
    if not config.pretrained:
        raise ConfigError("a base was given, but the settings ask for random weights: leave one of them out")
    if twice:
        raise ConfigError(f"a base was given, so the setting {twice[0]} has no effect: {_instead(base)}")
    chosen = method(config.method).defaults.keys() | config.model_fields_set
    open_ = base.new_head and "sparsity" not in chosen and n_of_m(config.allocation) is None
    default = {"sparsity": NEW_HEAD_SPARSITY} if open_ else {}
    return config.model_copy(update={"model": base.ref.architecture, **default})


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


def _choose_output(config: RunConfig) -> Path:
    """The output folder, the same on every rank; checked before anything is loaded."""
    if config.output:
        check_output(config.output)
        if config.resume is None:  # a checkpoint may record that the artifact may be replaced
            _check_output(config)
        return Path(config.output)
    return fresh_output(config)


def _check_output(config: RunConfig, *, resumed: bool = False) -> None:
    if not config.output:  # a new folder
        return
    check_target(Path(config.output), overwrite=config.overwrite)
    beside = random_base_of(Path(config.output))
    if not config.pretrained and beside.exists() and not (config.overwrite or resumed):
        raise ConfigError(f"{beside} exists, and the random weights would be saved there: choose another --output")
