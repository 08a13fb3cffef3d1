"""The rivals' table as Markdown: one table for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from timm_jackpot.experiments import markdown_table, mean_std

KINDS = ("mask", "norm_statistics", "norm_affine", "head", "weights")
_HEAD = ["rival", "top-1", "tuned", "kB per task", "mask", "statistics", "norms", "head", "weights"]
_HEAD += ["trained parameters", "steps", "seconds", "extra FLOPs", "switch time (ms)"]
_CAPTION = """Top-1 in per cent on the test split, mean ± standard deviation (seeds). *Tuned*: chosen on held-out
images. kB (1,000 bytes) beside the base: compact masks, all else in float32, without headers; *weights* are changed
weights or low-rank factors. *Extra FLOPs*: of a forward pass whose update is not merged. *Switch time*: to write the
tensors of one task, decoded and in memory, over those of another that changed the same ones.
"""


def rivals_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Top-1 is mean ± standard deviation over seeds (n); the other figures are means.

    Args:
        rows: one per task, rival and seed, as `compare_rivals` returns them.
    """
    blocks = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        lines = [
            _line(rival, [row for row in of_task if row["rival"] == rival])
            for rival in dict.fromkeys(row["rival"] for row in of_task)
        ]
        blocks.append(f"**{task}**, {of_task[0]['test_images']} test images\n\n{markdown_table(_HEAD, lines)}")
    return "\n".join([*blocks, _CAPTION])


def total_bytes(row: Mapping[str, Any]) -> int:
    """What one task takes beside the base."""
    return sum(row[f"{kind}_bytes"] for kind in KINDS)


def _line(rival: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    chosen = rows[0]["chosen"]
    parts = [f"{mean(row[f'{kind}_bytes'] for row in rows) / 1000:.1f}" for kind in KINDS]
    return [
        rival,
        mean_std((row["top1"] for row in rows), count=True),
        ", ".join(f"{key} {value}" for key, value in chosen.items()) or "–",
        f"{mean(map(total_bytes, rows)) / 1000:.1f}",
        *parts,
        f"{rows[0]['trained_parameters']:,}",
        str(rows[0]["steps"]),
        f"{mean(row['seconds'] for row in rows):.0f}",
        f"{100 * rows[0]['extra_flops']:.0f} %",
        f"{1000 * mean(row['switch_seconds'] for row in rows):.1f}",
    ]
