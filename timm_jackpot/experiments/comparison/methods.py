"""Columns for methods: each runs on the first artifact's task and is evaluated once on its test split."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from timm_jackpot.artifact import Artifact, load_base_of
from timm_jackpot.data import DataFlags
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.experiments.cells import Cell, run_cells
from timm_jackpot.experiments.comparison.columns import Column, free_name, one_base
from timm_jackpot.experiments.parts import Part, folder_lock
from timm_jackpot.masks import MaskSet, pack, unpack
from timm_jackpot.methods import Budget, Task, build_network, method
from timm_jackpot.runtime.processes import described, make_accelerator, say
from timm_jackpot.search.reopen import reopen_search
from timm_jackpot.search.save import published_settings
from timm_jackpot.training import Record


class MethodColumns(NamedTuple):
    columns: list[Column]
    left: int  # methods that other parts have not run yet


def method_columns(
    names: Sequence[str],
    columns: Sequence[Column],
    artifact: Artifact,
    flags: DataFlags,
    *,
    base_checkpoint: str | None,
    trust_base: bool,
    seed: int,
    folder: Path | None,
    part: Part,
) -> MethodColumns:
    """Run methods with the base, data, sparsity and number of steps of the first column.

    Args:
        artifact: of the first column.
        folder: keeps what has run: it is not run again.

    Raises:
        ConfigError: if the columns have different bases, or the folder holds methods run with other settings.
        JackpotError: if base or data cannot be used, or a method fails.
    """
    if not names:
        return MethodColumns([], 0)
    first = one_base(columns, "--methods")
    accelerator = make_accelerator(seed=seed)
    base = load_base_of(artifact, base_checkpoint=base_checkpoint, trust_base=trust_base)
    task, budget, search = reopen_search(artifact, base, flags, accelerator)
    task = replace(task, data=replace(task.data, val=None))  # nothing is selected here
    budget = replace(budget, seed=seed)
    made_from = {
        "mask": first.masks.hash(),
        "base": base.ref.digest,
        "data": task.data.name,
        "images": [len(task.data.train), len(task.data.test)],
        **described(accelerator),
        **{key: value for key, value in published_settings(search).items() if key not in ("workers", "strict")},
        "seed": seed,
    }
    cells = [Cell(name, name, {**made_from, "method": name}, partial(_run, name, task, budget)) for name in names]
    if folder is None:
        results, left = {}, 0
        for number, cell in enumerate(cells, 1):
            say(f"compare: method {number} of {len(cells)}: {cell.title}", accelerator)
            results[cell.key] = cell.run()
    else:
        with folder_lock(folder.resolve(), accelerator, part):
            ran = run_cells(cells, folder / "methods.json", accelerator, what="compare: method", part=part)
        results, left = ran.results, ran.left
    found = [
        Column(
            name=free_name(name, "method", columns),
            base=first.base,
            masks=_unpacked(result["masks"]),
            weights=first.weights if result["on_the_base"] else {},
            allocation=f"as {first.name}",
            recipe=f"method={name} steps={result['steps']} seed={seed}",
            dataset=task.data.name,
            results={"jackpot_top1": result["top1"]},
        )
        for name, result in results.items()
    ]
    return MethodColumns(found, left)


def _run(name: str, task: Task, budget: Budget) -> dict[str, Any]:
    """Run one method and evaluate it, as JSON values."""
    outcome = method(name).run(replace(task, record=Record()), budget)
    network = build_network(task, outcome)
    accuracy = evaluate_accuracy(network, task.data.test, batch_size=task.batch_size, accelerator=task.accelerator)
    return {
        "top1": accuracy.top1,
        "steps": outcome.steps,
        "on_the_base": all(changed.role != "weights" for changed in outcome.changed.values()),
        "masks": {layer: [list(mask.shape), _packed(mask)] for layer, mask in (outcome.masks or {}).items()},
    }


def _packed(mask: torch.Tensor) -> str:
    return base64.b64encode(zlib.compress(pack(mask).numpy().tobytes())).decode()


def _unpacked(masks: Mapping[str, tuple[list[int], str]]) -> MaskSet:
    def bits(text: str) -> torch.Tensor:
        return torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(text))), dtype=torch.uint8)

    return MaskSet({layer: unpack(bits(text), shape) for layer, (shape, text) in masks.items()})
