"""`ExportReport`: the schema of export.json, what a jackpot runs like in some format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from timm_jackpot.artifact.schema import Count
from timm_jackpot.base.ref import Hex64
from timm_jackpot.evidence.report import Plain
from timm_jackpot.schema import Document

_NOTICEABLE = 1.05
Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Latency(Document):
    """Milliseconds of a batch with one network and with another, timed in pairs; quartiles."""

    batch: int = Field(ge=1)
    n: int = Field(ge=1)  # pairs
    before_ms: tuple[Finite, Finite, Finite]
    after_ms: tuple[Finite, Finite, Finite]
    speedup: tuple[Finite, Finite, Finite]  # of the pairs

    @property
    def in_words(self) -> str:
        lower, middle, upper = self.speedup
        if lower > _NOTICEABLE:
            return f"{middle:.2f} times as fast"
        if upper < 1 / _NOTICEABLE:
            return f"takes {1 / max(middle, 1e-9):.2f} times as long"
        return "no difference measured"


class Sizes(Document):
    """Bytes of a format's files."""

    disk: Count
    compressed: Count  # by LZMA


class ExportReport(Document):
    """What an export was compared with, and what it takes. Where the format does not run, nothing is said of speed."""

    format: str = Field(pattern=r"^[a-z0-9][a-z0-9:_-]{0,39}$")
    mask_hash: Hex64 | None  # None: exported from a model in memory
    runtime: Plain
    open_with: str = Field(max_length=500)  # a line of Python
    compared_on: Plain
    images: Count
    largest_difference: Finite | None  # max |Δlogit|
    relative_difference: Finite | None  # the same over max |logit|
    bytes_before: Sizes  # of a timm checkpoint in float32
    bytes_after: Sizes
    processor: Plain
    threads: Count
    beside_torch: tuple[Latency, ...]  # the masked network in torch, and this
    beside_whole: tuple[Latency, ...]  # this format with zeros in it, and this
    speed: str = Field(max_length=500)
    speed_by_mask: str = Field(max_length=500)
    notes: dict[str, Any]  # what else its writer says


def exports_section(reports: Sequence[ExportReport]) -> str:
    """A table of formats for a card; empty without reports."""
    if not reports:
        return ""
    before = reports[0].bytes_before.disk
    machines = "; ".join(sorted({f"{one.processor}, {_threads(one.threads)}" for one in reports}))
    lines = [
        f"| format | runtime | bytes (dense: {before:,}) | LZMA | ms at batch 1 | at batch 32 | due to the mask |",
        "|---|---|---|---|---|---|---|",
        *map(_row, reports),
        "",
        f"Median milliseconds ({machines}) beside those of the masked network in torch. The last column compares with "
        "the same format before anything was removed, so that a runtime's own speed does not count. "
        f"{_differences(reports)}",
    ]
    return "\n".join(lines)


def _row(report: ExportReport) -> str:
    ms = {one.batch: f"{one.after_ms[1]:.2f} (torch: {one.before_ms[1]:.2f})" for one in report.beside_torch}
    cells = f"`{report.format}`", report.runtime, f"{report.bytes_after.disk:,}", f"{report.bytes_after.compressed:,}"
    return f"| {' | '.join((*cells, ms.get(1, '–'), ms.get(32, '–'), _by_mask(report)))} |"


def _by_mask(report: ExportReport) -> str:
    if not report.beside_torch:
        return "–"
    return ", ".join(f"{one.in_words} at batch {one.batch}" for one in report.beside_whole) or "none"


def _differences(reports: Sequence[ExportReport]) -> str:
    sentences = []
    if known := [report.relative_difference for report in reports if report.relative_difference is not None]:
        sentences.append(f"Logits differ from the masked network's by at most {max(known):.0e} of the largest one.")
    if unknown := [f"`{report.format}`" for report in reports if report.relative_difference is None]:
        sentences.append(f"Not run, and not compared: {', '.join(unknown)}.")
    return " ".join(sentences)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
