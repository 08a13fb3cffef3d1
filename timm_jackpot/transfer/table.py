"""The cells as a matrix of text: sources and controls down, targets across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from timm_jackpot.transfer.plan import HeadRule


def matrix_means(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Row → target → {"mean", "std" (None of a single seed), "n"} of top-1 in per cent."""
    matrix: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        at = matrix.setdefault(cell["row"], {}).setdefault(cell["target"], {"values": []})
        at["values"].append(cell["top1"])
    return {
        row: {
            target: {"mean": mean(v), "std": stdev(v) if len(v) > 1 else None, "n": len(v)}
            for target, v in ((target, at["values"]) for target, at in targets.items())
        }
        for row, targets in matrix.items()
    }


def matrix_table(cells: Sequence[Mapping[str, Any]], head: HeadRule) -> str:
    """Markdown: the target's own mask in bold, "–" where every cell of a place failed; below it how to read it."""
    means = matrix_means(cells)
    targets = {cell["target"]: cell["test_images"] for cell in cells}
    own = {(cell["row"], cell["target"]) for cell in cells if cell["own"]}
    lines = ["| mask | " + " | ".join(f"on {name}" for name in targets) + " |", "|---|" + "---|" * len(targets)]
    for row, of in means.items():
        texts = [_text(of.get(target), bold=(row, target) in own) for target in targets]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    seeds = len({cell["seed"] for cell in cells})
    spread = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ", one seed"
    images = ", ".join(f"{name} {n}" for name, n in targets.items())
    lines += [
        "",
        f"Top-1 on the test split (%){spread}; test images: {images}. Bold: the target's own mask. Every network, the "
        f"dense one too, got its norm statistics re-estimated on the target and a new head, trained for {head.steps} "
        f"steps (SGD, learning rate {head.lr:g}); everything else was frozen.",
    ]
    return "\n".join(lines) + "\n"


def _text(at: Mapping[str, Any] | None, *, bold: bool) -> str:
    if at is None:
        return "–"
    text = f"{at['mean']:.2f}" + (f" ± {at['std']:.2f}" if at["std"] is not None else "")
    return f"**{text}**" if bold else text
