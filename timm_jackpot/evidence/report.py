"""`AuditReport`: audit.json, strictly. It may come with a stranger's artifact, so it must agree with itself."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from timm_jackpot.artifact.schema import Count, Name, Producer
from timm_jackpot.base.ref import Hex64
from timm_jackpot.evidence.interval import Interval
from timm_jackpot.evidence.verdict import (
    AUDIT_CONTROLS,
    AUDIT_MODELS,
    Principle,
    Verdict,
    answer_principles,
    verdict_of,
)
from timm_jackpot.schema import Document

# Of methods and criteria, which may be later ones than this version knows.
MethodName = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[a-z][a-z0-9_]*$")]
# What may stand in a card, between backticks: there not even an address becomes a link.
Plain = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w ./:()+@-]*$")]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_ROUNDING = 1e-6
AUDIT_FORMAT = 2
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ModelResult(Document):
    """Top-1 of one kind of model on the test split, in per cent."""

    top1: Interval  # of the mean over seeds
    std: Percent | None  # over seeds; None for a single one
    n: int = Field(ge=1, le=1000)  # seeds
    jackpot_ahead: Interval | None = None  # points; the jackpot with its statistics re-estimated, minus this

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.top1.low < 0:
            raise ValueError("an accuracy lies below zero")
        if (self.std is None) != (self.n == 1):
            raise ValueError("a spread goes with several seeds, and with these only")
        return self


class Overlap(Document):
    """Agreement of two mask sets (Eq. 7), beside what chance gives at the same layer counts."""

    overlap: Fraction
    chance: Fraction


class SecondSearch(Overlap):
    """The jackpot and searches from other seeds: means over these."""

    agreement: Fraction  # of their answers to the test images


class LayerDensity(Document):
    name: Name
    kept: Count
    total: int = Field(ge=1, le=2**53)


class AuditData(Document):
    """What the models were conclusions on."""

    dataset: Plain
    train_images: Count
    test_images: int = Field(ge=1, le=2**53)
    calibration_images: Count  # over which norm statistics were re-estimated
    leaked_test_images: Count | None  # None: not checked


class AuditReport(Document):
    """Everything that an audit found. `principles` and `verdict` follow from the figures; a report in which they do
    not is refused.

    Models and controls beyond those that every audit has are read and shown: a later version may know more. Format 1
    had none, and did not name its controls.
    """

    format: int = Field(ge=1, le=AUDIT_FORMAT)
    producer: Producer
    base: Plain
    mask_hash: Hex64
    steps: Count  # of each search
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=1000, fail_fast=True)]
    data: AuditData
    models: dict[MethodName, ModelResult]  # those in AUDIT_MODELS at least
    controls: Annotated[list[MethodName], Field(max_length=200, fail_fast=True)] = Field(
        default_factory=lambda: list(AUDIT_CONTROLS)  # these at least
    )
    behind_dense: Interval  # points by which the jackpot, as published, is behind the dense base as it came
    shuffled_ahead: Interval  # points by which shuffled labels are ahead of magnitude + statistics
    second_search: SecondSearch
    overlaps: dict[MethodName, Overlap]  # with the masks of criteria
    layers: Annotated[list[LayerDensity], Field(min_length=1, max_length=100_000, fail_fast=True)]
    similar_margin: float = Field(ge=0, le=100, allow_inf_nan=False)
    principles: dict[str, Principle]
    verdict: Verdict
    seconds: float = Field(ge=0, allow_inf_nan=False)
    device: Plain

    @property
    def sparsity(self) -> float:
        return 1 - sum(layer.kept for layer in self.layers) / sum(layer.total for layer in self.layers)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if not set(self.models) >= {*AUDIT_MODELS, *self.controls}:
            raise ValueError("models are missing")
        if not set(self.controls) >= set(AUDIT_CONTROLS) or len(set(self.controls)) != len(self.controls):
            raise ValueError("a control is missing, or named twice")
        if any(layer.kept > layer.total for layer in self.layers):
            raise ValueError("a layer keeps more weights than it has")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is named twice")
        if any(measured.n not in (1, len(self.seeds)) for measured in self.models.values()):
            raise ValueError("a model was not measured once, or once for every seed")
        chance = _chance_overlap(self.layers)
        if any(abs(told.chance - chance) > _ROUNDING for told in (self.second_search, *self.overlaps.values())):
            raise ValueError("an overlap by chance is not that of the layers' counts")
        top1 = {name: measured.top1.value for name, measured in self.models.items()}
        ahead = {n: m.jackpot_ahead for n, m in self.models.items() if m.jackpot_ahead or n in self.controls}
        differences = [
            (self.behind_dense, top1["dense"] - top1["jackpot"]),
            (self.shuffled_ahead, top1["shuffled_labels"] - top1["magnitude_recalibrated"]),
            *((told, top1["jackpot_recalibrated"] - top1[name]) for name, told in ahead.items()),
        ]
        if any(told is None or abs(told.value - true) > _ROUNDING for told, true in differences):
            raise ValueError("a difference is not that of its two accuracies")
        principles, verdict = conclusions(
            self.layers,
            {name: self.models[name] for name in self.controls},
            self.data,
            behind_dense=self.behind_dense,
            shuffled_ahead=self.shuffled_ahead,
            similar_margin=self.similar_margin,
        )
        if self.principles != principles:
            raise ValueError("the answers to the principles do not follow from the figures")
        if self.verdict != verdict:
            raise ValueError(f"the verdict is not the one that follows from the figures, {verdict}")
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
            "seconds": self.seconds,
        }


def _chance_overlap(layers: list[LayerDensity]) -> float:
    """Of two random masks with these counts: Σ (k² + (n − k)²) / n over Σ n."""
    agreeing = sum((layer.kept**2 + (layer.total - layer.kept) ** 2) / layer.total for layer in layers)
    return agreeing / sum(layer.total for layer in layers)


def conclusions(
    layers: list[LayerDensity],
    controls: dict[str, ModelResult],
    data: AuditData,
    *,
    behind_dense: Interval,
    shuffled_ahead: Interval,
    similar_margin: float,
) -> tuple[dict[str, Principle], Verdict]:
    """The answers and the verdict that follow from a report's figures."""
    principles = answer_principles(
        kept=sum(layer.kept for layer in layers),
        total=sum(layer.total for layer in layers),
        gaps={name: gap for name, measured in controls.items() if (gap := measured.jackpot_ahead) is not None},
        behind_dense=behind_dense,
        similar_margin=similar_margin,
    )
    verdict = verdict_of(
        principles,
        test_images=data.test_images,
        leaked_test_images=data.leaked_test_images,
        shuffled_ahead=shuffled_ahead,
    )
    return principles, verdict
