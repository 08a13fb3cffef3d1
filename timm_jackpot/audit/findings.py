"""From predictions to figures and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import stdev
from typing import Any

from timm_jackpot.audit.evaluate import RowResult, correct
from timm_jackpot.evidence import (
    AUDIT_CONTROLS,
    AuditData,
    LayerDensity,
    ModelResult,
    conclusions,
    paired_intervals,
)


def findings(
    answers: Mapping[str, list[RowResult]], layers: list[LayerDensity], tested: AuditData, margin: float
) -> dict[str, Any]:
    """Accuracies, differences and verdict, as the fields of `AuditFindings`."""
    jackpot, behind = "jackpot_recalibrated", ("dense", "jackpot")
    shuffled = ("shuffled_labels", "magnitude_recalibrated")
    first = ("dense", "dense_recalibrated", "jackpot", "jackpot_recalibrated")
    ahead = {name: (jackpot, name) for name in answers if name not in first}
    top1, differences = paired_intervals(correct(answers), [behind, shuffled, *ahead.values()])
    models: dict[str, ModelResult] = {}
    for name, several in answers.items():
        accuracies = [100 * found.predictions.correct.double().mean().item() for found in several]
        models[name] = ModelResult(
            top1=top1[name],
            std=stdev(accuracies) if len(accuracies) > 1 else None,
            n=len(accuracies),
            jackpot_ahead=differences[ahead[name]] if name in ahead else None,
        )
    figures = {
        "behind_dense": differences[behind],
        "shuffled_ahead": differences[shuffled],
        "similar_margin": margin,
    }
    principles, verdict = conclusions(layers, models, AUDIT_CONTROLS, tested, **figures)
    return {
        **figures,
        "models": models,
        "layers": layers,
        "controls": list(AUDIT_CONTROLS),
        "data": tested,
        "principles": principles,
        "verdict": verdict,
    }
