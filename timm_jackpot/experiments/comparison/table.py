"""A comparison as text: aligned for a terminal, or Markdown; and as one csv line per layer and pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from timm_jackpot.artifact import KINDS
from timm_jackpot.experiments.comparison.columns import Column
from timm_jackpot.experiments.comparison.pairs import Pair
from timm_jackpot.experiments.text import csv_table, markdown_table

_FIGURES = {
    "dense_top1": "dense",
    "magnitude_top1": "magnitude one-shot",
    "magnitude_recalibrated_top1": "magnitude, statistics re-estimated",
    "jackpot_top1": "jackpot",
}


class Section(NamedTuple):
    title: str
    head: list[str]
    rows: list[list[str]]


def sections_of(columns: Sequence[Column], pairs: Sequence[Pair]) -> list[Section]:
    """Summary, settings, overlaps of all pairs, and a table of layers with overlaps with the first column."""
    names = [column.name for column in columns]
    controls = dict.fromkeys(name for column in columns for name in column.controls)
    rows = [
        ["base", *(column.base for column in columns)],
        ["allocation", *(column.allocation for column in columns)],
        ["sparsity (%)", *(_percent(column.masks.sparsity) for column in columns)],
        ["of all parameters (%)", *(_percent(column.sparsity_all_parameters) for column in columns)],
        *(
            [f"bytes, {label}", *(str(column.bytes_by_kind.get(kind, "–")) for column in columns)]
            for kind, label in KINDS.items()
            if any(column.bytes_by_kind.get(kind) for column in columns)
        ),
        ["searched on", *(column.dataset for column in columns)],
        *([f"top-1, {label}", *(_figure(e.results.get(key)) for e in columns)] for key, label in _FIGURES.items()),
        ["audit", *(column.verdict for column in columns)],
        *([f"audit, {control}", *(_figure(e.controls.get(control)) for e in columns)] for control in controls),
    ]
    sections = [
        Section("", ["", *names], rows),
        Section("Settings", ["", "different from the defaults"], [[column.name, column.recipe] for column in columns]),
        Section(
            "Overlap of the masks, measured and by chance", ["", "", "overlap (%)", "by chance (%)"], _pairs(pairs)
        ),
    ]
    layers = list(dict.fromkeys(layer for column in columns for layer in column.masks))
    beside = [pair for pair in pairs if pair.a == columns[0].name]
    head = ["layer", *(f"sparsity, {name}" for name in names), *(f"overlap, {pair.b}" for pair in beside)]
    sections.append(
        Section(
            f"Layer by layer (%): sparsity; overlap with {names[0]} (by chance in parentheses)",
            head,
            [
                [layer, *(_sparsity(e, layer) for e in columns), *(_overlap(p, layer) for p in beside)]
                for layer in layers
            ],
        )
    )
    return sections


def as_text(sections: Sequence[Section]) -> str:
    """Sections as plain text, with columns aligned by spaces."""
    blocks = []
    for title, head, rows in sections:
        columns = [_aligned(column) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
        blocks.append("\n".join([*([f"{title}:"] if title else []), *lines]))
    return "\n\n".join(blocks)


def as_markdown(sections: Sequence[Section]) -> str:
    titled = ((f"**{title}**\n\n" if title else "", head, rows) for title, head, rows in sections)
    return "\n".join(title + markdown_table(head, rows) for title, head, rows in titled)


def as_csv(columns: Sequence[Column], pairs: Sequence[Pair]) -> str:
    """One line per layer of each comparable pair: counts, overlap, and overlap by chance."""
    by_name = {column.name: column.masks for column in columns}
    rows = []
    for pair in pairs:
        kept_a, kept_b = by_name[pair.a].kept_per_layer(), by_name[pair.b].kept_per_layer()
        for layer, (overlap, chance) in pair.layers.items():
            kept = {"weights": by_name[pair.a][layer].numel(), "kept_a": kept_a[layer], "kept_b": kept_b[layer]}
            rows.append({"a": pair.a, "b": pair.b, "layer": layer, **kept, "overlap": overlap, "chance": chance})
    return csv_table(rows)


def _aligned(column: Sequence[str]) -> list[str]:
    """Numbers right-aligned, words left-aligned."""
    width = max(map(len, column))
    figures = all(text == "–" or text[:1].isdigit() for text in column[1:])
    return [text.rjust(width) if figures else text.ljust(width) for text in column]


def _pairs(pairs: Sequence[Pair]) -> list[list[str]]:
    return [
        [pair.a, pair.b, _percent(pair.overlap), _percent(pair.chance)] if pair.why_not is None
        else [pair.a, pair.b, "–", pair.why_not]
        for pair in pairs
    ]  # fmt: skip


def _overlap(pair: Pair, layer: str) -> str:
    if layer not in pair.layers:
        return "–"
    overlap, chance = pair.layers[layer]
    return f"{100 * overlap:.1f} ({100 * chance:.1f})"


def _sparsity(column: Column, layer: str) -> str:
    mask = column.masks.get(layer)
    return "–" if mask is None else f"{100 * (1 - int(mask.count_nonzero()) / mask.numel()):.1f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
