"""What a mask would give in an export format, before there is one: the largest of random weights are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import nn

from timm_jackpot.adapter import silence
from timm_jackpot.base import load_base, save_random_weights
from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.criteria import magnitude
from timm_jackpot.errors import ConfigError
from timm_jackpot.export import export_jackpot
from timm_jackpot.methods import Budget, BudgetFlags, CoverFlags, Start, find_maskable, n_of_m


def export_rows(name: str, config: BenchConfig) -> Iterator[dict[str, Any]]:
    """A row for each kind of mask, format and batch of 1 and 32 images, or one that says why there is none.

    `ratio` is the time in this format over that of the masked network in torch, `mask_ratio` over that of the same
    format before anything was removed (None: nothing was); their ranges are quartiles over pairs.
    """
    for budget in _budgets(config):
        network = masked_network(name, budget, config.img_size)
        for format_name in config.formats:
            said = {"allocation": budget.allocation, "sparsity": budget.sparsity, "format": format_name}
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = export_jackpot(network, Path(folder, "exported"), format=format_name)
                except ConfigError as error:
                    yield {**said, "refused": str(error)}
                    continue
            if not found["beside_torch"]:
                yield {**said, "refused": found["speed"]}
                continue
            removed = found["beside_whole"] or [None] * len(found["beside_torch"])
            for beside_torch, beside_whole in zip(found["beside_torch"], removed, strict=True):
                low, middle, high = _ratios(beside_torch)
                yield {
                    **said,
                    "batch": beside_torch["batch"],
                    "ratio": middle,
                    "ratio_min": low,
                    "ratio_max": high,
                    "n": beside_torch["n"],
                    "ms": beside_torch["after_ms"][1],
                    "mask_ratio": None if beside_whole is None else _ratios(beside_whole),
                    "bytes": found["bytes_after"]["disk"] / found["bytes_before"]["disk"],
                }


def export_text(row: dict[str, Any]) -> str:
    said = f"{row['what']:<16}{row['model']}, {row['allocation']} {row['sparsity']}, {row['format']}"
    if "refused" in row:
        return f"{said}: {row['refused']}"
    low, middle, high = row["mask_ratio"] or (1, 1, 1)
    mask = "nothing removed" if row["mask_ratio"] is None else f"mask alone {middle:.3f} ({low:.3f} to {high:.3f})"
    return (
        f"{said}, batch {row['batch']}: {row['ratio']:.3f}  ({row['ratio_min']:.3f} to {row['ratio_max']:.3f}, "
        f"n = {row['n']})  {row['ms']:.2f} ms  {mask}  {100 * row['bytes']:.0f} % of the bytes"
    )


@torch.no_grad()
def masked_network(name: str, budget: Budget, img_size: int) -> nn.Module:
    """An architecture with random weights, of which those that the budget leaves out are zero."""
    torch.manual_seed(budget.seed)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "base.safetensors")
        save_random_weights(name, weights, {}, img_size=img_size)
        base = load_base(name, base_checkpoint=weights, img_size=img_size)
    size = resolve_model_data_config(base.model)["input_size"]
    maskable = find_maskable(CoverFlags(), base, size, allocation=budget.allocation)
    masks = Start.of(magnitude(maskable.weights), maskable, budget).masks
    for layer, weight in maskable.weights.items():
        weight.mul_(masks[layer])
    if maskable.filters is not None:
        silence(base.model, masks, maskable.filters)
    return base.model


def _budgets(config: BenchConfig) -> list[Budget]:
    """Every allocation at every sparsity; an N:M pattern has its own."""
    flags: list[BudgetFlags] = []
    for allocation in config.allocations:
        if n_of_m(allocation):
            flags.append(BudgetFlags(allocation=allocation))
        else:
            flags += [BudgetFlags(allocation=allocation, sparsity=sparsity) for sparsity in config.sparsities]
    return [Budget.of(one, steps=0, seed=0) for one in flags]


def _ratios(latency: dict[str, Any]) -> tuple[float, float, float]:
    low, middle, high = latency["speedup"]
    return round(1 / high, 3), round(1 / middle, 3), round(1 / low, 3)
