"""What follows from an audit's numbers: every verdict, ties and noise included; on made-up figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from timm_jackpot.artifact import read_artifact
from timm_jackpot.errors import ArtifactError
from timm_jackpot.evidence import (
    AUDIT_CONTROLS,
    AuditReport,
    Interval,
    ModelResult,
    audit_section,
    conclusions,
    paired_intervals,
    verdict_line,
)
from timm_jackpot.evidence.read import read_audit
from timm_jackpot.evidence.verdict import answer_principles, verdict_of
from timm_jackpot.hub import render_card
from timm_jackpot.plots import AUDIT_PICTURES, audit_figures

DIGITS = Path(__file__).parents[1] / "hubcards" / "digits"


def around(value: float, half: float = 0.1) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def exactly(value: float) -> Interval:
    return around(value, 0.0)


FAR, NEAR, WORSE = around(3), around(0.2), around(-5)


def judge(
    *,
    kept: int = 10,
    gap: Interval = FAR,
    behind: Interval = NEAR,
    margin: float = 0.5,
    images: int = 599,
    leaked: int | None = 0,
    shuffled: Interval = WORSE,
) -> tuple[str, dict[str, str]]:
    gaps = {**dict.fromkeys(AUDIT_CONTROLS, around(20)), "magnitude_recalibrated": gap}
    found = answer_principles(kept=kept, total=100, gaps=gaps, behind_dense={"dense": behind}, similar_margin=margin)
    verdict = verdict_of(found, test_images=images, leaked_test_images=leaked, shuffled_ahead=shuffled)
    return verdict, {name: principle.answer for name, principle in found.items()}


@pytest.mark.parametrize(
    ("expected", "figures"),
    [
        ("jackpot", {}),
        ("jackpot", {"behind": around(-4)}),  # ahead of dense
        ("jackpot", {"behind": exactly(0.5)}),  # a tie with the margin is within it
        ("jackpot", {"behind": around(0.9), "margin": 1.0}),
        ("secondary prize", {"behind": around(6)}),
        ("secondary prize", {"behind": around(0.9)}),
        ("secondary prize", {"behind": Interval(value=1, low=0.500001, high=2)}),
        ("not decided", {"behind": Interval(value=1, low=0.5, high=2)}),  # as good as a tie with the margin
        ("not decided", {"behind": around(0.4, 0.2)}),
        ("not decided", {"behind": around(6), "gap": around(0.6, 0.2)}),  # none or secondary prize
        ("not decided", {"gap": around(0.6, 0.2)}),
        ("none", {"gap": exactly(0.5)}),  # a tie with the margin is no clear gap
        ("none", {"gap": exactly(0.0)}),
        ("none", {"gap": around(-3)}),
        ("none", {"gap": around(-3), "behind": around(6)}),
        ("none", {"kept": 40}),  # 60 % is not over 60 %
        ("jackpot", {"kept": 39}),
        ("none", {"kept": 40, "leaked": 1}),
        ("not decided", {"images": 29}),
        ("jackpot", {"images": 30}),
        ("not decided", {"leaked": 1}),
        ("not decided", {"leaked": 1, "gap": around(-3)}),
        ("jackpot", {"leaked": None}),  # not checked: said, not judged
        ("not decided", {"shuffled": around(0.3, 0.1)}),
        ("jackpot", {"shuffled": around(0.3, 0.4)}),  # no more than noise
        ("jackpot", {"shuffled": exactly(0.0)}),  # it found the magnitude mask
    ],
)
def test_verdicts(expected: str, figures: dict[str, Any]) -> None:
    assert judge(**figures)[0] == expected


def test_principles_that_need_trained_tickets_are_not_asked() -> None:
    _, answers = judge()
    assert answers == {
        "sparsity": "yes",
        "small_dense": "not asked",
        "clear_gap": "yes",
        "similar_same_lr": "not asked",
        "similar_well_trained": "yes",
    }


@pytest.mark.parametrize(
    ("expected", "figures"),
    [
        ("jackpot", {}),
        ("secondary prize", {"behind_dense": {"dense": around(3)}}),
        ("none", {"small_dense": around(0.2)}),
        ("none", {"gaps": {"random_reinit": around(0.2)}}),
        ("none", {"behind_same_lr": {0.1: around(3), 0.01: around(4)}}),
        ("jackpot", {"behind_same_lr": {0.1: around(3), 0.01: NEAR}}),  # one learning rate is enough
        ("not decided", {"behind_same_lr": {0.1: around(3), 0.01: around(0.5)}}),
        ("not decided", {"small_dense": None}),
        ("not decided", {"gaps": {}}),
        ("not decided", {"behind_same_lr": {}}),
        ("not decided", {"behind_dense": {}}),
        ("none", {"gaps": {}, "small_dense": around(0.2)}),
        ("none", {"kept": 50}),
    ],
)
def test_verdicts_on_tickets(expected: str, figures: dict[str, Any]) -> None:
    best: dict[str, Any] = {
        "small_dense": FAR,
        "gaps": {"random_reinit": FAR},
        "behind_dense": {"dense": NEAR},
        "kept": 5,
    }
    principles = answer_principles(**{**best, "behind_same_lr": {0.1: NEAR}, **figures}, total=100, similar_margin=0.5)
    told = {"test_images": 599, "leaked_test_images": 0, "shuffled_ahead": None}
    assert verdict_of(principles, **told, all_asked=True) == expected
    assert verdict_of(principles, **{**told, "leaked_test_images": 2}, all_asked=True) != "jackpot"


def test_trained_networks_answer_what_is_not_asked_without_them(told: dict[str, Any]) -> None:
    report = _report(told)
    jackpot = report.models["jackpot_recalibrated"].top1.value

    def beside(small_dense: Interval, dense: Interval) -> dict[str, ModelResult]:
        ahead = {"small_dense_ticket": small_dense, "dense_ticket": dense}
        rows = {
            name: ModelResult(top1=around(jackpot - gap.value), std=0.1, n=7, jackpot_ahead=gap)
            for name, gap in ahead.items()
        }
        return {**report.models, **rows}

    def judged(models: dict[str, ModelResult]) -> tuple[dict[str, str], str]:
        figures = {key: getattr(report, key) for key in ("behind_dense", "shuffled_ahead", "similar_margin")}
        principles, verdict = conclusions(report.layers, models, report.controls, report.data, **figures)
        shown = report.model_copy(update={"models": models, "principles": principles, "verdict": verdict})
        assert AuditReport.model_validate_json(shown.model_dump_json()) == shown
        assert "| small dense network, trained |" in audit_section(shown)
        assert "(n = 7)" in audit_section(shown)
        assert "dense ones and those trained from random weights keep the same number" in audit_section(shown)
        return {name: principle.answer for name, principle in principles.items()}, verdict_line(shown)

    answers, _ = judged(beside(FAR, around(-0.2)))
    assert (answers["small_dense"], answers["similar_same_lr"]) == ("yes", "yes")
    answers, line = judged(beside(around(0.1), around(-0.8)))
    assert (answers["small_dense"], answers["similar_same_lr"]) == ("no", "no")
    assert "**none**. ② clear drop of a small dense network: no" in line
    forged = report.model_copy(update={"models": beside(FAR, NEAR)}).model_dump_json()
    with pytest.raises(ValidationError, match="do not follow from the figures"):
        AuditReport.model_validate_json(forged)


def test_the_jackpot_must_be_similar_to_fine_tuned_networks_too(told: dict[str, Any]) -> None:
    report = _report(told)
    top1 = report.models["jackpot_recalibrated"].top1.value

    def beside(behind: Interval, base: Interval = NEAR) -> AuditReport:
        tuned = ModelResult(
            top1=around(top1 + behind.value), std=0.1, n=len(report.seeds), jackpot_ahead=behind.negated()
        )
        dense = report.models["dense"].model_copy(
            update={"top1": around(report.models["jackpot"].top1.value + base.value)}
        )
        models = {**report.models, "dense": dense, "full_adamw": tuned}
        figures = {"shuffled_ahead": report.shuffled_ahead, "similar_margin": report.similar_margin}
        principles, verdict = conclusions(
            report.layers, models, report.controls, report.data, behind_dense=base, **figures
        )
        found = {"models": models, "behind_dense": base, "principles": principles, "verdict": verdict}
        shown = report.model_copy(update=found)
        assert AuditReport.model_validate_json(shown.model_dump_json()) == shown
        return shown

    def asked(shown: AuditReport) -> tuple[str, str | None]:
        return shown.verdict, shown.principles["similar_well_trained"].control

    assert asked(beside(around(-10))) == ("jackpot", None)
    better = beside(around(0.7))
    assert asked(better) == ("secondary prize", "full_adamw")
    assert "+0.70 [+0.60, +0.80] points below the base, fine-tuned with AdamW (" in verdict_line(better)
    assert asked(beside(around(0.7, 0.4))) == ("not decided", "full_adamw")
    assert asked(beside(around(0.7, 0.4), around(0.6, 0.05))) == ("secondary prize", None), (
        "noise beside it saves nothing"
    )
    forged = {**better.model_dump(), "verdict": "jackpot"}
    with pytest.raises(ValidationError, match="the verdict that follows from the figures is secondary prize"):
        AuditReport.model_validate(forged)


def test_the_gap_is_that_to_the_control_that_the_answer_hangs_on() -> None:
    def hardest(**gaps: Interval) -> tuple[str | None, str]:
        every = {**dict.fromkeys(AUDIT_CONTROLS, around(20)), **gaps}
        found = answer_principles(kept=1, total=100, gaps=every, behind_dense={"dense": around(0)}, similar_margin=0.5)
        return found["clear_gap"].control, found["clear_gap"].answer

    assert hardest(random=around(4), smallest=around(5)) == ("random", "yes")
    assert hardest(random=around(4), smallest=around(5, 4.8)) == ("smallest", "not decided")
    assert hardest(random=around(0.45, 0.02), smallest=around(0.4, 0.2)) == ("random", "no")


def test_intervals_hold_what_they_say_and_pairs_cancel_what_images_share() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(2000) < 0.3
    a = ~hard[None]
    b = a.copy()
    b[0, np.flatnonzero(a[0])[:40]] = False  # 2 points worse, on the same images otherwise
    top1, gaps = paired_intervals({"a": a, "b": b}, [("a", "b"), ("a", "a")])
    assert top1["a"].value == pytest.approx(100 * a.mean())
    width = top1["a"].high - top1["a"].low
    assert width == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.3 * 0.7 / 2000), rel=0.1)
    assert gaps["a", "b"].value == 2
    assert gaps["a", "b"].high - gaps["a", "b"].low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.02 / 2000), rel=0.1)
    assert gaps["a", "a"] == exactly(0)
    again = paired_intervals({"a": a, "b": b}, [("a", "b")])
    assert again[1]["a", "b"] == gaps["a", "b"]
    few = [paired_intervals({"a": a}, [], seed=seed, resamples=99)[0]["a"] for seed in (0, 1)]
    assert few[0] != few[1]


def test_intervals_grow_with_the_spread_over_seeds() -> None:
    right = np.arange(1000) < 800
    alike, unlike = np.stack([right] * 3), np.stack([np.arange(1000) < n for n in (700, 800, 900)])
    top1, _ = paired_intervals({"alike": alike, "unlike": unlike}, [])
    assert top1["alike"].value == top1["unlike"].value == pytest.approx(80)
    assert top1["unlike"].high - top1["unlike"].low > 2 * (top1["alike"].high - top1["alike"].low)


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return json.loads((DIGITS / "audit.json").read_text(encoding="utf-8"))


def _report(told: dict[str, Any], **changes: Any) -> AuditReport:
    return AuditReport.model_validate_json(json.dumps({**told, **changes}))


def test_a_report_survives_json(told: dict[str, Any]) -> None:
    report = _report(told)
    assert AuditReport.model_validate_json(report.model_dump_json()) == report
    summary = report.summary()
    assert {"verdict", "principles", "controls"} <= summary.keys()
    assert set(summary["controls"]) == set(AUDIT_CONTROLS)
    assert set(summary["controls"]["random"]) == {"mean", "std", "n"}
    json.dumps(summary, allow_nan=False)


def test_a_report_that_does_not_agree_with_itself_is_refused(told: dict[str, Any]) -> None:
    def models(**changes: Any) -> dict[str, Any]:
        return {**told["models"], "random": {**told["models"]["random"], **changes}}

    other = next(v for v in ("jackpot", "none") if v != told["verdict"])
    answered = {**told["principles"], "small_dense": {**told["principles"]["small_dense"], "answer": "yes"}}
    told_controls = list(AUDIT_CONTROLS)
    fewer = {name: model for name, model in told["models"].items() if name != "random"}
    forged = [
        ({"verdict": other}, "the verdict that follows from the figures is"),
        ({"principles": answered}, "do not follow from the figures"),
        ({"models": models(jackpot_ahead={"value": 99.0, "low": 99.0, "high": 99.0})}, "does not match its two"),
        ({"models": models(jackpot_ahead=None)}, "does not match its two"),
        ({"models": models(top1={"value": 10.0, "low": 30.0, "high": 20.0})}, "outside its interval"),
        ({"models": models(top1={"value": 10.0, "low": 20.0, "high": 30.0})}, "outside its interval"),
        ({"models": models(top1={"value": 10.0, "low": -1.0, "high": 30.0})}, "below zero"),
        ({"models": models(n=1, std=5.0)}, "a standard deviation needs several seeds"),
        ({"models": models(n=77)}, "measured once, or once per seed"),
        ({"seeds": [1, 1, 2]}, "a seed is listed twice"),
        ({"second_search": {**told["second_search"], "chance": 0.5}}, "does not follow from the layer counts"),
        ({"models": fewer}, "models are missing"),
        ({"similar_margin": 50.0}, "do not follow"),
        ({"data": {**told["data"], "dataset": "<script>"}}, "pattern"),
        ({"surprise": 1}, "surprise"),
        ({"controls": told_controls[1:]}, "a control is missing"),
        ({"controls": [*told_controls, "random"]}, "listed twice"),
        ({"controls": [*told_controls, "unheard_of"]}, "models are missing"),
        ({"controls": [*told_controls, "jackpot"]}, "does not match its two"),
        ({"models": {**told["models"], "<b>": told["models"]["random"]}}, "pattern"),
        ({"format": 5}, "format"),
    ]
    for changes, message in forged:
        with pytest.raises(ValidationError, match=message):
            _report(told, **changes)


@pytest.mark.usefixtures("drawn_pictures")
def test_a_control_that_this_version_does_not_know_is_shown_and_counts(told: dict[str, Any]) -> None:
    beside = {"models": {**told["models"], "later_row": told["models"]["dense_recalibrated"]}}
    assert "| later row |" in audit_section(_report(told, **beside))
    near = dict(told["models"]["magnitude_recalibrated"])
    models = {**told["models"], "later_control": near}
    report = _report(told, models=models, controls=[*AUDIT_CONTROLS, "later_control"], format=2)
    assert "| later control |" in audit_section(report)
    assert "later_control" in report.summary()["controls"]
    assert audit_figures(report) != audit_figures(_report(told))


def _artifact(tmp_path: Path, audit: bytes):
    for name in ("config.json", "masks.safetensors", "extras.safetensors"):
        (tmp_path / name).write_bytes((DIGITS / name).read_bytes())
    (tmp_path / "audit.json").write_bytes(audit)
    return read_artifact(tmp_path)


def test_a_card_takes_its_evidence_from_the_audit(tmp_path: Path, told: dict[str, Any]) -> None:
    artifact = _artifact(tmp_path, json.dumps(told).encode())
    report = _report(told)
    card = render_card(artifact, pictures=("plots/audit_accuracy.png", "plots/search.png"))
    head = card.split("## Load it")[0]
    assert (
        f"> This jackpot was audited against controls such as permuted and random masks. {verdict_line(report)}" in head
    )
    assert "has not been audited" not in card
    assert audit_section(report) in card
    assert card.count("plots/audit_accuracy.png") == card.count("plots/search.png") == 1
    (tmp_path / "audit.json").unlink()
    bare = render_card(artifact)
    assert "has not been audited" in bare.split("## Load it")[0]
    assert "Ma et al." not in bare


def test_an_audit_that_is_a_link_is_no_evidence(tmp_path: Path, told: dict[str, Any]) -> None:
    artifact = _artifact(tmp_path, b"")
    (tmp_path / "audit.json").unlink()
    (tmp_path / "audit.json").symlink_to(DIGITS / "audit.json")
    assert read_audit(artifact) is None
    assert "has not been audited" in render_card(artifact)


def test_a_card_is_not_rendered_from_an_audit_that_is_damaged_or_anothers(tmp_path: Path, told: dict[str, Any]) -> None:
    for text, message in [
        (b"{", "not valid JSON"),
        (b"{}", "audit.json is not valid at"),
        (json.dumps({**told, "mask_hash": "0" * 64}).encode(), "audits a different mask"),
        (json.dumps(told).encode().replace(b'"seeds": [1', b'"seeds": [NaN'), "NaN, which is not JSON"),
    ]:
        artifact = _artifact(tmp_path, text)
        with pytest.raises(ArtifactError, match=message):
            render_card(artifact)


@pytest.mark.usefixtures("drawn_pictures")
def test_pictures_come_from_the_report_alone(told: dict[str, Any]) -> None:
    pictures = audit_figures(_report(told))
    assert set(pictures) == set(AUDIT_PICTURES)
    for picture in pictures.values():
        assert picture.startswith(b"\x89PNG")
        width = int.from_bytes(picture[16:20], "big")
        assert 700 <= width <= 900
    assert audit_figures(_report(told)) == pictures


def test_a_section_says_why_nothing_is_decided(told: dict[str, Any]) -> None:
    leaked = {**told["data"], "leaked_test_images": 3}
    text = verdict_line(_report(told, data=leaked, verdict="not decided"))
    assert text == "Verdict: **not decided**. No accuracy here counts: 3 test images are also training images."
    assert "was not checked" in audit_section(_report(told, data={**told["data"], "leaked_test_images": None}))
