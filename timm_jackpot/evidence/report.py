"""`AuditReport`: the schema of audit.json. It may come from an untrusted artifact, so its consistency is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from timm_jackpot.artifact.schema import Count, Name, Producer
from timm_jackpot.base.ref import Hex64
from timm_jackpot.evidence.interval import Interval
from timm_jackpot.evidence.verdict import (
    AUDIT_CONTROLS,
    AUDIT_MODELS,
    DENSE_ROW,
    FINE_TUNED,
    SMALL_DENSE_ROW,
    TICKET_ROWS,
    Principle,
    Verdict,
    answer_principles,
    verdict_of,
)
from timm_jackpot.schema import Document

# Names of methods and criteria, including ones this version does not know.
MethodName = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[a-z][a-z0-9_]*$")]
# Text that is safe between backticks in a card: no URL becomes a link there.
Plain = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w ./:()+@-]*$")]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_ROUNDING = 1e-6
AUDIT_FORMAT = 4
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ModelResult(Document):
    """Top-1 of one kind of model on the test split, in per cent."""

    top1: Interval  # of the mean over seeds
    std: Percent | None  # over seeds; None for a single one
    n: int = Field(ge=1, le=1000)  # seeds
    jackpot_ahead: Interval | None = None  # points; jackpot_recalibrated minus this model

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.top1.low < 0:
            raise ValueError("an accuracy is below zero")
        if (self.std is None) != (self.n == 1):
            raise ValueError("a standard deviation needs several seeds, and several seeds need one")
        return self


class Overlap(Document):
    """Overlap of two masks (Eq. 7), and the overlap by chance at the same layer counts."""

    overlap: Fraction
    chance: Fraction


class SecondSearch(Overlap):
    """The jackpot compared with searches from other seeds: means over those searches."""

    agreement: Fraction  # fraction of test images with the same prediction


class LayerDensity(Document):
    name: Name
    kept: Count
    total: int = Field(ge=1, le=2**53)


class AuditData(Document):
    """The data that the models were evaluated on."""

    dataset: Plain
    train_images: Count
    test_images: int = Field(ge=1, le=2**53)
    calibration_images: Count  # on which norm statistics were re-estimated
    leaked_test_images: Count | None  # None: not checked


class AuditFindings(Document):
    """Figures of an audit, and what follows from them. Findings whose `principles` and `verdict` do not follow from
    their figures are refused.

    Every audit has the models in AUDIT_MODELS; others, such as controls of a later version, are read and shown too.
    """

    data: AuditData
    models: dict[MethodName, ModelResult]  # at least those in AUDIT_MODELS
    controls: Annotated[list[MethodName], Field(max_length=200, fail_fast=True)] = Field(
        default_factory=lambda: list(AUDIT_CONTROLS)  # at least these
    )
    behind_dense: Interval  # points; dense minus jackpot, both as published
    shuffled_ahead: Interval  # points; shuffled_labels minus magnitude_recalibrated
    layers: Annotated[list[LayerDensity], Field(min_length=1, max_length=100_000, fail_fast=True)]
    similar_margin: float = Field(ge=0, le=100, allow_inf_nan=False)
    principles: dict[str, Principle]
    verdict: Verdict

    @property
    def sparsity(self) -> float:
        return 1 - sum(layer.kept for layer in self.layers) / sum(layer.total for layer in self.layers)

    @model_validator(mode="after")
    def _agree_with_themselves(self) -> Self:
        if not set(self.models) >= {*AUDIT_MODELS, *self.controls}:
            raise ValueError("models are missing")
        if not set(self.controls) >= set(AUDIT_CONTROLS) or len(set(self.controls)) != len(self.controls):
            raise ValueError("a control is missing or listed twice")
        if any(layer.kept > layer.total for layer in self.layers):
            raise ValueError("a layer keeps more weights than it has")
        top1 = {name: measured.top1.value for name, measured in self.models.items()}
        needed = {*self.controls, *TICKET_ROWS, *FINE_TUNED}
        ahead = {n: m.jackpot_ahead for n, m in self.models.items() if m.jackpot_ahead or n in needed}
        differences = [
            (self.behind_dense, top1["dense"] - top1["jackpot"]),
            (self.shuffled_ahead, top1["shuffled_labels"] - top1["magnitude_recalibrated"]),
            *((gap, top1["jackpot_recalibrated"] - top1[name]) for name, gap in ahead.items()),
        ]
        if any(found is None or abs(found.value - true) > _ROUNDING for found, true in differences):
            raise ValueError("a difference does not match its two accuracies")
        principles, verdict = conclusions(
            self.layers,
            self.models,
            self.controls,
            self.data,
            behind_dense=self.behind_dense,
            shuffled_ahead=self.shuffled_ahead,
            similar_margin=self.similar_margin,
        )
        if self.principles != principles:
            raise ValueError("the answers to the principles do not follow from the figures")
        if self.verdict != verdict:
            raise ValueError(f"the verdict that follows from the figures is {verdict}, not {self.verdict}")
        return self

    def summary(self) -> dict[str, Any]:
        """What the verb prints as its last line."""
        return {
            "verdict": self.verdict,
            "principles": {name: principle.model_dump() for name, principle in self.principles.items()},
            "controls": {
                name: {"mean": m.top1.value, "std": m.std, "n": m.n}
                for name, m in ((name, self.models[name]) for name in self.controls)
            },
            "jackpot_top1": self.models["jackpot"].top1.value,
            "dense_top1": self.models["dense"].top1.value,
            "leaked_test_images": self.data.leaked_test_images,
            "test_images": self.data.test_images,
        }


class AuditReport(AuditFindings):
    """Everything that an audit found.

    Format 1 had only the models in AUDIT_MODELS and no list of controls, format 2 no rows of trained networks
    (TICKET_ROWS), and in format 3 fine-tuned networks (FINE_TUNED) did not count.
    """

    format: int = Field(ge=1, le=AUDIT_FORMAT)
    producer: Producer
    base: Plain
    mask_hash: Hex64
    steps: Count  # of each search
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=1000, fail_fast=True)]
    second_search: SecondSearch
    overlaps: dict[MethodName, Overlap]  # with the masks of one-shot criteria
    seconds: float = Field(ge=0, allow_inf_nan=False)
    device: Plain

    @model_validator(mode="after")
    def _agrees_with_its_seeds_and_layers(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is listed twice")
        if any(m.n not in (1, len(self.seeds)) for name, m in self.models.items() if name not in TICKET_ROWS):
            raise ValueError("a model must be measured once, or once per seed")
        chance = _chance_overlap(self.layers)
        if any(abs(found.chance - chance) > _ROUNDING for found in (self.second_search, *self.overlaps.values())):
            raise ValueError("an overlap by chance does not follow from the layer counts")
        return self

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "seconds": self.seconds}


class Fold(Document):
    """One of several audits that were pooled."""

    base: Plain
    base_digest: Hex64
    mask_hash: Hex64
    data: AuditData
    dense: Percent
    jackpot: Percent  # as published


class PooledReport(AuditFindings):
    """What audits of one recipe find together, over the test images of all of them.

    Counts of layers are sums over all masks. `data` has the test images of all audits, and the training images of the
    smallest.
    """

    format: Literal[1, 2]  # 2: fine-tuned networks (FINE_TUNED) count
    kind: Literal["pooled"]
    producer: Producer
    folds: Annotated[list[Fold], Field(min_length=2, max_length=1000, fail_fast=True)]
    steps: Count


def this_version() -> Producer:
    from timm_jackpot import __version__

    return Producer(name="timm_jackpot", version=__version__)


def _chance_overlap(layers: list[LayerDensity]) -> float:
    """Expected overlap of two random masks with these counts: Σ (k² + (n − k)²) / n over Σ n."""
    agreeing = sum((layer.kept**2 + (layer.total - layer.kept) ** 2) / layer.total for layer in layers)
    return agreeing / sum(layer.total for layer in layers)


def conclusions(
    layers: list[LayerDensity],
    models: dict[str, ModelResult],
    controls: Sequence[str],
    data: AuditData,
    *,
    behind_dense: Interval,
    shuffled_ahead: Interval,
    similar_margin: float,
) -> tuple[dict[str, Principle], Verdict]:
    """The answers to the principles, and the verdict, that follow from a report's figures."""
    ahead = {name: model.jackpot_ahead for name, model in models.items() if model.jackpot_ahead is not None}
    dense = ahead.get(DENSE_ROW)
    principles = answer_principles(
        kept=sum(layer.kept for layer in layers),
        total=sum(layer.total for layer in layers),
        gaps={name: ahead[name] for name in controls},
        behind_dense={"dense": behind_dense, **{name: ahead[name].negated() for name in FINE_TUNED if name in ahead}},
        similar_margin=similar_margin,
        small_dense=ahead.get(SMALL_DENSE_ROW),
        behind_same_lr={} if dense is None else {None: dense.negated()},
    )
    verdict = verdict_of(
        principles,
        test_images=data.test_images,
        leaked_test_images=data.leaked_test_images,
        shuffled_ahead=shuffled_ahead,
    )
    return principles, verdict
