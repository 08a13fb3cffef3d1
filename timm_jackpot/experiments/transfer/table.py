"""The matrix as text: one row per source or control, one column per target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from timm_jackpot.experiments import markdown_table, mean_std
from timm_jackpot.experiments.transfer.plan import HeadRule


def top1_by_place(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Row → target → top-1 in percent, by seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        found.setdefault(cell["row"], {}).setdefault(cell["target"], []).append(cell["top1"])
    return found


def matrix_means(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Row → target → {"mean", "std" (None for a single seed), "n"} of top-1 in percent."""
    return {
        row: {
            target: {"mean": mean(v), "std": stdev(v) if len(v) > 1 else None, "n": len(v)} for target, v in of.items()
        }
        for row, of in top1_by_place(cells).items()
    }


def matrix_table(cells: Sequence[Mapping[str, Any]], head: HeadRule) -> str:
    """The matrix in Markdown, with a note on how to read it. "–": all cells failed."""
    targets = {cell["target"]: cell["test_images"] for cell in cells}
    own = {(cell["row"], cell["target"]) for cell in cells if cell["own"]}

    def text(row: str, target: str, values: Sequence[float]) -> str:
        return f"**{mean_std(values)}**" if (row, target) in own else mean_std(values)

    matrix = markdown_table(
        ["mask", *(f"on {name}" for name in targets)],
        [[row, *(text(row, at, of.get(at, ())) for at in targets)] for row, of in top1_by_place(cells).items()],
    )
    seeds = len({cell["seed"] for cell in cells})
    spread = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ", one seed"
    images = ", ".join(f"{name} {n}" for name, n in targets.items())
    return (
        f"{matrix}\nTop-1 on the test split (%){spread}; test images: {images}. Bold: the target's own mask. For every "
        "network, including the dense one, norm statistics were re-estimated on the target and a new head was trained "
        f"for {head.head_steps} steps (SGD, learning rate {head.head_lr:g}); everything else was frozen.\n"
    )
