"""Columns for methods: each runs on the first artifact's task and is evaluated once on its test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from timm_jackpot.artifact import Artifact, load_base_of
from timm_jackpot.data import DataFlags
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.experiments.comparison.columns import Column, free_name, one_base
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods import build_network, method
from timm_jackpot.runtime.processes import make_accelerator, say
from timm_jackpot.search.reopen import reopen_search
from timm_jackpot.training import Record


def method_columns(
    names: Sequence[str],
    columns: Sequence[Column],
    artifact: Artifact,
    flags: DataFlags,
    *,
    base_checkpoint: str | None,
    trust_base: bool,
    seed: int,
) -> list[Column]:
    """Run methods with the base, data, sparsity and number of steps of the first column.

    Args:
        artifact: of the first column.

    Raises:
        ConfigError: if the columns have different bases.
        JackpotError: if base or data cannot be used, or a method fails.
    """
    if not names:
        return []
    first = one_base(columns, "--methods")
    accelerator = make_accelerator(seed=seed)
    base = load_base_of(artifact, base_checkpoint=base_checkpoint, trust_base=trust_base)
    task, budget, _ = reopen_search(artifact, base, flags, accelerator)
    task = replace(task, data=replace(task.data, val=None))  # nothing is selected here
    found = []
    for number, name in enumerate(dict.fromkeys(names), 1):
        say(f"compare: method {number} of {len(names)}: {name}", accelerator)
        outcome = method(name).run(replace(task, record=Record()), replace(budget, seed=seed))
        accuracy = evaluate_accuracy(
            build_network(task, outcome), task.data.test, batch_size=task.batch_size, accelerator=accelerator
        )
        found.append(
            Column(
                name=free_name(name, "method", columns),
                base=first.base,
                masks=outcome.masks or MaskSet({}),
                weights={} if any(changed.role == "weights" for changed in outcome.changed.values()) else first.weights,
                allocation=f"as {first.name}",
                recipe=f"method={name} steps={outcome.steps} seed={seed}",
                dataset=task.data.name,
                results={"jackpot_top1": accuracy.top1},
            )
        )
    return found
