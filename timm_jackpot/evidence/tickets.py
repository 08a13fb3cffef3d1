"""`TicketReport`: the schema of a ticket audit's audit.json, and its text."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from timm_jackpot.evidence.interval import Interval
from timm_jackpot.evidence.section import answered, data_label, interval_range, leaks, principle_table
from timm_jackpot.evidence.verdict import Principle, Verdict
from timm_jackpot.schema import Document

_TITLES = {
    "ticket": "**{method}**",
    "random_reinit": "its mask on fresh weights",
    "small_dense": "small dense network",
    "dense": "dense training",
}


class TicketRow(Document):
    """The networks of one role at one learning rate: means over seeds, in per cent."""

    role: str
    lr: float
    weights: int  # kept, of those that can be masked
    last_steps: int  # of the last training
    epochs: float  # in all: with dense training and pruning rounds
    validation: float  # top-1 on held-out images
    top1: Interval  # on the test split
    std: float | None  # over seeds
    chosen: bool  # the role's best learning rate on held-out images


class TicketReport(Document):
    """Everything that an audit of trained tickets found."""

    format: Literal[1]
    kind: Literal["tickets"]
    architecture: str
    method: str  # under audit
    kept: int
    total: int
    seeds: Annotated[list[int], Field(min_length=1)]
    dataset: str
    test_images: int
    validation_images: int
    leaked_test_images: int | None
    rows: list[TicketRow]
    same_masks: float | None  # fraction of controls with the very mask of the ticket; None: no controls
    way_from_start: float | None  # ‖θ_k − θ₀‖ / ‖θ − θ₀‖, mean; None: the ticket began from θ₀, which was checked
    similar_margin: float
    principles: dict[str, Principle]
    verdict: Verdict
    device: str

    def summary(self) -> dict[str, Any]:
        """What the verb prints as its last line."""
        return {
            "verdict": self.verdict,
            "method": self.method,
            "principles": {name: principle.model_dump() for name, principle in self.principles.items()},
            "top1": {
                row.role: {"mean": row.top1.value, "std": row.std, "lr": row.lr} for row in self.rows if row.chosen
            },
            "n": len(self.seeds),
            "test_images": self.test_images,
        }


def plain_text(text: str) -> str:
    """Text without the characters that a report does not allow."""
    return re.sub(r"[^\w ./:()+@-]", "", text)[:200] or "unknown"


def ticket_verdict_line(report: TicketReport) -> str:
    """The verdict, and the principles that it hangs on."""
    wanted = {"none": ("no",), "not decided": ("not decided", "not asked"), "secondary prize": ("no",)}.get(
        report.verdict
    )
    if report.leaked_test_images and report.verdict != "none":
        why = [f"No accuracy here counts: {report.leaked_test_images:,} test images are also training images."]
    else:
        told = report.principles.items()
        why = [answered(name, found) for name, found in told if wanted is None or found.answer in wanted]
    return " ".join([f"Verdict: **{report.verdict}**.", *why])


def ticket_section(report: TicketReport) -> str:
    """The tables and notes of a ticket audit, without heading and verdict."""
    seeds = f"mean ± standard deviation over {len(report.seeds)} seeds" if len(report.seeds) > 1 else "one seed"
    lines = [
        f"Top-1 accuracy (%) on the test split of {data_label(report.dataset)} (n = {report.test_images:,}), {seeds}. "
        "Brackets: 95 % confidence intervals (paired bootstrap over test images and seeds). ✓: the learning rate with "
        f"the best accuracy on held-out images (n = {report.validation_images:,}), which counts in ②, ③ and ⑤.",
        "",
        "| | weights | last training, steps | in all, epochs | learning rate | held-out | test |",
        "|---|---|---|---|---|---|---|",
        *(_line(row, report.method) for row in report.rows),
        "",
        *principle_table(report.principles),
        "",
        _origin(report),
        leaks(report.leaked_test_images),
    ]
    return "\n".join(lines)


def ticket_page(report: TicketReport) -> str:
    """The whole report as Markdown."""
    sparsity = 100 * (1 - report.kept / report.total)
    return (
        f"# Audit of {report.method} in {report.architecture}, sparsity {sparsity:.2f} %\n\n"
        f"Seeds {', '.join(map(str, report.seeds))}, judged on {report.device}. Figures: `audit.json`.\n\n"
        f"{ticket_verdict_line(report)}\n\n{ticket_section(report)}\n"
    )


def _line(row: TicketRow, method: str) -> str:
    spread = f" ± {row.std:.2f}" if row.std is not None else ""
    title = _TITLES[row.role].format(method=method.replace("_", " "))
    lr = f"{row.lr:g}{' ✓' if row.chosen else ''}"
    return (
        f"| {title} | {row.weights:,} | {row.last_steps:,} | {row.epochs:.1f} | {lr} | "
        f"{row.validation:.2f} | {row.top1.value:.2f}{spread} {interval_range(row.top1)} |"
    )


def _origin(report: TicketReport) -> str:
    if report.way_from_start is None:
        text = "Initial weights were drawn again from their seeds, and are the same."
    else:
        text = (
            "Initial weights of controls and of dense training were drawn again from their seeds, and are the same. "
            f"Those that {report.method} returns to are trained and cannot be drawn: on the kept weights they are "
            f"{report.way_from_start:.2f} of the final ones' distance away from the random ones (0: not trained)."
        )
    if report.same_masks is not None:
        text += f" {100 * report.same_masks:.0f} % of the controls have exactly the ticket's mask."
    return text
