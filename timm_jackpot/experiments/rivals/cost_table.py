"""What methods reach, and what training them took, as Markdown: one table for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from timm_jackpot.experiments import markdown_table, mean_std

_HEAD = ["method", "family", "top-1", "top-5", "sparsity (%)", "epochs", "dense epochs", "seconds"]
_CAPTION = """Top-1 and top-5 in per cent on the test split, mean ± standard deviation (seeds). *Epochs* over the
training images, by phase. *Dense epochs*: of dense training, with as many floating-point operations, as if zeros cost
nothing. Neither counts what trained the base that a method begins from.
"""


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best come first; all figures but top-1 and top-5 are means over seeds.

    Rows of an earlier version lack some figures: – stands for these.

    Args:
        rows: one per task, rival and seed, as `compare_rivals` returns them.
    """
    blocks = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        by_rival = {row["rival"]: [r for r in of_task if r["rival"] == row["rival"]] for row in of_task}
        best = sorted(by_rival, key=lambda rival: -mean(row["top1"] for row in by_rival[rival]))
        lines = [_line(rival, by_rival[rival]) for rival in best]
        blocks.append(f"**{task}**, {of_task[0]['test_images']} test images\n\n{markdown_table(_HEAD, lines)}")
    return "\n".join([*blocks, _CAPTION])


def _line(rival: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    top5 = [row["top5"] for row in rows if "top5" in row]
    dense = [row["dense_epochs"] for row in rows if "dense_epochs" in row]
    return [
        rival,
        rows[0].get("family", "–"),
        mean_std((row["top1"] for row in rows), count=True),
        mean_std(top5) if top5 else "–",
        f"{100 * mean(row['sparsity'] for row in rows):.2f}",
        _by_phase([row["epochs"] for row in rows if "epochs" in row]),
        f"{mean(dense):.2f}" if dense else "–",
        f"{mean(row['seconds'] for row in rows):.0f}",
    ]


def _by_phase(epochs: Sequence[Mapping[str, float]]) -> str:
    if not epochs:
        return "–"
    phases = {title: mean(one.get(title, 0.0) for one in epochs) for some in epochs for title in some}
    return " + ".join(f"{taken:.1f} {title}" for title, taken in phases.items()) or "0"
