"""An audit as Markdown: rendered from the report alone, so the same report always gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping

from timm_jackpot.evidence.interval import Interval
from timm_jackpot.evidence.report import AuditFindings, AuditReport, ModelResult, PooledReport
from timm_jackpot.evidence.verdict import TICKET_ROWS, Principle, labels_leak

TITLES: Mapping[str, str] = {
    "dense": "dense base",
    "dense_recalibrated": "dense base, statistics re-estimated",
    "jackpot": "jackpot, as published",
    "jackpot_recalibrated": "jackpot, statistics re-estimated",
    "second_search": "searches from other seeds",
    "magnitude": "magnitude one-shot, statistics of the base",
    "magnitude_recalibrated": "magnitude one-shot",
    "permuted_within": "mask permuted within layers",
    "permuted_across": "mask permuted across layers",
    "random": "random mask, same layer counts",
    "smallest": "smallest weights, same layer counts",
    "reinitialised": "the mask on re-initialized weights",
    "shuffled_labels": "search with shuffled labels",
    "small_dense_ticket": "small dense network, trained",
    "random_reinit": "the mask on fresh weights",
    "dense_ticket": "dense training at the search's learning rate",
    "full_sgd": "the base, fine-tuned with SGD",
    "full_adamw": "the base, fine-tuned with AdamW",
}
_QUESTIONS = {
    "sparsity": "non-trivial sparsity (over 60 %)",
    "small_dense": "clear drop of a small dense network",
    "clear_gap": "clear gap (over 0.5 points) to every control",
    "similar_same_lr": "similar to dense at the same learning rate",
    "similar_well_trained": "similar to the well-trained dense network",
}
_NUMBERS = "①②③④⑤"
_ONE_BASE = "All audits have one base: the figures count only if it was not trained on any of these images."


def title_of(name: str) -> str:
    """The title of a model in tables and figures; an unknown model is shown by its name."""
    return TITLES.get(name, name.replace("_", " "))


def data_label(name: str) -> str:
    """A data set in a sentence; a folder has no name of its own."""
    return "an image folder" if name == "folder" else f"`{name}`"


def verdict_line(report: AuditFindings) -> str:
    """The verdict and the reason for it, in one or two sentences."""
    return f"Verdict: **{report.verdict}**. {_why(report)}"


def audit_section(report: AuditReport, *, pictures: Mapping[str, str] | None = None) -> str:
    """The tables and notes of an audit, without heading and verdict.

    Args:
        pictures: file → caption, to be shown below the tables.
    """
    data = report.data
    lines = [
        f"Top-1 accuracy (%) on the test split of {data_label(data.dataset)} (n = {data.test_images:,}), evaluated "
        f"once per model. {_how(report, report.steps)}",
        "",
        *_accuracies(report),
        "",
        "| mask | overlap with the jackpot's | by chance |",
        "|---|---|---|",
        *(
            f"| {name}, same layer counts | {100 * found.overlap:.2f} % | {100 * found.chance:.2f} % |"
            for name, found in report.overlaps.items()
        ),
        f"| searches from other seeds | {100 * report.second_search.overlap:.2f} % | "
        f"{100 * report.second_search.chance:.2f} % |",
        "",
        f"The jackpot and searches from other seeds predict the same class for "
        f"{100 * report.second_search.agreement:.2f} % of the test images.",
        leaks(data.leaked_test_images),
    ]
    for file, text in (pictures or {}).items():
        lines += ["", f"![{text}]({file})"]
    return "\n".join(lines)


def pooled_section(report: PooledReport) -> str:
    """The tables and notes of several audits together, without heading and verdict."""
    data = report.data
    return "\n".join(
        [
            f"Top-1 accuracy (%) on the combined test splits of {len(report.folds)} audits (n = {data.test_images:,}), "
            "which share no image. Each mask was searched without the images that it is tested on, and so were its "
            f"controls. {_how(report, report.steps)} Bases and masks are taken as they are: the intervals do not cover "
            "what another division into folds would change.",
            "",
            *_accuracies(report),
            "",
            "| mask | data | test images | dense | jackpot |",
            "|---|---|---|---|---|",
            *(
                f"| `{fold.mask_hash[:16]}…` | {data_label(fold.data.dataset)} | {fold.data.test_images:,} | "
                f"{fold.dense:.2f} | {fold.jackpot:.2f} |"
                for fold in report.folds
            ),
            "",
            leaks(data.leaked_test_images, of=" of the same audit"),
            *([_ONE_BASE] if len({fold.base_digest for fold in report.folds}) == 1 else []),
        ]
    )


def _how(report: AuditFindings, steps: int) -> str:
    trained = " and those trained from random weights" if any(name in report.models for name in TICKET_ROWS) else ""
    return (
        f"Random and searched rows: {_seeds(report)}. Brackets: 95 % "
        "confidence intervals (paired bootstrap over test images and seeds). All rows but the dense ones"
        f"{trained} keep the same number of weights. {_statistics(report.data.calibration_images)} The last column "
        "compares with the jackpot with re-estimated statistics. "
        f"Every search takes {steps:,} steps, like the jackpot's."
    )


def _accuracies(report: AuditFindings) -> list[str]:
    """The rows of an audit, and the answers that follow, as the lines of two tables."""
    first = ("dense", "dense_recalibrated", "jackpot", "jackpot_recalibrated", "second_search", *report.controls)
    rows = [*first, *(name for name in report.models if name not in first)]
    return [
        "| | top-1 | jackpot minus row |",
        "|---|---|---|",
        *(_row(name, report.models[name]) for name in rows),
        "",
        *principle_table(report.principles),
    ]


def _row(name: str, measured: ModelResult) -> str:
    top1, bold = measured.top1, "**" if name == "jackpot" else ""
    spread = f" ± {measured.std:.2f}" if measured.std is not None else ""
    spread += f" (n = {measured.n})" if name in TICKET_ROWS else ""
    ahead = points(measured.jackpot_ahead) if measured.jackpot_ahead is not None else "–"
    return f"| {bold}{title_of(name)}{bold} | {bold}{top1.value:.2f}{bold}{spread} {interval_range(top1)} | {ahead} |"


def principle_table(principles: Mapping[str, Principle]) -> list[str]:
    """The answers to the principles, as the lines of a table."""
    return [
        "| principle (Ma et al. 2021) | answer | figure |",
        "|---|---|---|",
        *(f"| {asked(name, found)} | {found.answer} | {_figure(name, found)} |" for name, found in principles.items()),
    ]


def asked(name: str, principle: Principle) -> str:
    """The number of a principle, and its question."""
    return f"{_NUMBERS[principle.number - 1]} {_QUESTIONS[name]}"


def answered(name: str, principle: Principle) -> str:
    """A principle, its answer and its figure, in a sentence."""
    figure = "" if principle.figure is None else f" ({_figure(name, principle)})"
    return f"{asked(name, principle)}: {principle.answer}{figure}."


def _figure(name: str, principle: Principle) -> str:
    if principle.figure is None:
        return "–"
    if name == "sparsity":
        return f"{principle.figure.value:.2f} %"
    if name in ("similar_same_lr", "similar_well_trained"):
        at = "" if principle.lr is None else f" at {principle.lr:g}"
        return f"{points(principle.figure)} below {_dense(principle)}{at}; at most {principle.margin:g} allowed"
    assert principle.control is not None
    return f"{points(principle.figure)} over {title_of(principle.control)}"


def _dense(principle: Principle) -> str:
    return "dense" if principle.control is None else title_of(principle.control)


def _why(report: AuditFindings) -> str:
    principles = report.principles
    gap, similar = principles["clear_gap"], principles["similar_well_trained"]
    assert gap.figure is not None
    assert gap.control is not None
    assert similar.figure is not None
    if principles["sparsity"].answer == "no":
        return f"The sparsity, {100 * report.sparsity:.2f} %, is not above 60 %."
    if report.data.leaked_test_images:
        return f"No accuracy here counts: {report.data.leaked_test_images:,} test images are also training images."
    if labels_leak(report.shuffled_ahead):
        return (
            f"A search with shuffled labels beats magnitude by {points(report.shuffled_ahead)} points, more than "
            "noise explains: the search learns from something other than the labels."
        )
    ahead = f"{points(gap.figure)} points over the nearest control ({title_of(gap.control)})"
    behind = f"{points(similar.figure)} points below {_dense(similar)} (similar: at most {similar.margin:g})"
    if gap.answer == "no":
        return f"No clear gap: {ahead}."
    trained = {name: principles[name] for name in ("small_dense", "similar_same_lr")}
    for answer in ("no", "not decided"):
        for name, principle in trained.items():
            if principle.answer == answer:
                return answered(name, principle)
    if gap.answer == "not decided":
        return f"Noise is too large to tell whether the gap is clear (over 0.5 points): {ahead}."
    if similar.answer == "not decided":
        return f"A clear gap: {ahead}. Noise is too large to tell whether it is similar to dense: {behind}."
    return f"A clear gap: {ahead}; {behind}."


def _statistics(images: int) -> str:
    if not images:
        return "The network has no norm statistics, so rows with and without re-estimation are the same."
    return f"Norm statistics are re-estimated on the same {images:,} training images unless a row says otherwise."


def leaks(count: int | None, *, of: str = "") -> str:
    """A sentence about test images among the training images."""
    if count is None:
        return "It was not checked whether test images are also training images."
    return f"Test images that are also training images{of} (compared pixel by pixel): {count}."


def _seeds(report: AuditFindings) -> str:
    count = report.models["second_search"].n
    return f"mean ± standard deviation over {count} seeds" if count > 1 else "one seed"


def points(difference: Interval) -> str:
    """A difference, and its confidence interval."""
    return f"{difference.value:+.2f} {interval_range(difference, signed=True)}"


def interval_range(interval: Interval, *, signed: bool = False) -> str:
    """A confidence interval in brackets."""
    return f"[{interval.low:+.2f}, {interval.high:+.2f}]" if signed else f"[{interval.low:.2f}, {interval.high:.2f}]"
