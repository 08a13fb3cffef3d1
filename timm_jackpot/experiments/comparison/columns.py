"""The columns of a comparison: artifacts, and masks that criteria choose at the same layer counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from timm_jackpot.artifact import Artifact, bytes_by_kind, load_base_of, locate_artifact, read_artifact
from timm_jackpot.criteria import criterion
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evidence import read_audit
from timm_jackpot.masks import MaskSet, keep_largest

_FIGURES = ("dense_top1", "magnitude_top1", "magnitude_recalibrated_top1", "jackpot_top1")


@dataclass(frozen=True)
class Column:
    """One column of a comparison. Text and figures are as claimed by the artifact; its masks have been checked."""

    name: str
    base: str
    masks: MaskSet
    weights: dict[str, str]  # sha256 of each masked weight, which identifies the base
    allocation: str = "–"
    sparsity_all_parameters: float | None = None
    recipe: str = "–"  # settings that differ from the defaults
    dataset: str = "–"
    results: dict[str, float] = field(default_factory=dict)  # top-1 in percent
    verdict: str = "–"  # of the audit
    controls: dict[str, float] = field(default_factory=dict)  # mean top-1 in the audit
    bytes_by_kind: dict[str, int] = field(default_factory=dict)  # of an artifact


def artifact_columns(
    names: Sequence[str], *, base_checkpoint: str | None, trust_base: bool
) -> tuple[list[Column], list[Artifact]]:
    """Read artifacts; each is named by the part of its path that distinguishes it.

    Raises:
        ArtifactError, HubError: if one of them cannot be read.
        BaseError: if one has compact masks and its base cannot be loaded.
    """
    artifacts = [read_artifact(locate_artifact(name)) for name in names]

    def masks_of(artifact: Artifact) -> MaskSet:
        if artifact.config.encoding == "packed":
            return artifact.masks
        return artifact.masks_on(load_base_of(artifact, base_checkpoint=base_checkpoint, trust_base=trust_base))

    return [
        _column(name, found, masks_of(found)) for name, found in zip(_short(names), artifacts, strict=True)
    ], artifacts


def criterion_columns(
    names: Sequence[str],
    columns: Sequence[Column],
    artifact: Artifact,
    *,
    base_checkpoint: str | None,
    trust_base: bool,
    seed: int,
) -> list[Column]:
    """The masks that criteria choose at the layer counts of the first column, whose artifact is given.

    Raises:
        ConfigError: if the columns have different bases.
        BaseError, ArtifactError: if that base cannot be loaded.
    """
    if not names:
        return []
    first = one_base(columns, "--criteria")
    base = load_base_of(artifact, base_checkpoint=base_checkpoint, trust_base=trust_base)
    parameters = dict(base.model.named_parameters(remove_duplicate=False))
    weights = {name: parameters[name] for name in first.masks}
    kept = first.masks.kept_per_layer()

    def mask(name: str) -> MaskSet:
        scores = criterion(name).scores(
            weights,
            base.model,
            batches=tuple,
            input_size=artifact.config.data.input_size,
            seed=seed,
            kept=lambda: kept,
        )
        return MaskSet({layer: keep_largest(values, kept[layer]) for layer, values in scores.items()})

    same = {"base": first.base, "weights": first.weights, "allocation": f"as {first.name}"}
    return [
        Column(name=free_name(name, "criterion", columns), masks=mask(name), **same) for name in dict.fromkeys(names)
    ]


def one_base(columns: Sequence[Column], flag: str) -> Column:
    """The first column, if the others mask the same weights.

    Raises:
        ConfigError: if they do not.
    """
    first = columns[0]
    other = next((column for column in columns if column.weights != first.weights), None)
    if other is not None:
        raise ConfigError(
            f"{flag} needs columns with the same base, but {first.name} and {other.name} mask different weights: "
            f"omit {flag}"
        )
    return first


def free_name(name: str, kind: str, columns: Sequence[Column]) -> str:
    """The name, with its kind added if a column already has that name."""
    return f"{name} ({kind})" if any(column.name == name for column in columns) else name


def _short(names: Sequence[str]) -> list[str]:
    parts = [Path(name).parts or Path(name).resolve().parts for name in names]  # "." has none
    for length in range(1, max(map(len, parts)) + 1):
        ends = [part[-length:] for part in parts]
        if len(set(ends)) == len(ends):
            while min(map(len, ends)) > 1 and len({end[-1] for end in ends}) == 1:  # a/seed0 and b/seed0 are a and b
                ends = [end[:-1] for end in ends]
            return ["/".join(end) for end in ends]
    raise ConfigError(f"{max(names, key=names.count)} is given twice: name each artifact once")


def _column(name: str, artifact: Artifact, masks: MaskSet) -> Column:
    config = artifact.config
    results = _mapping(config.info.get("results"))
    kept, parameters = config.sparsity.all_parameters
    verdict, controls = _audit(artifact)
    return Column(
        name=name,
        base=config.base.name,
        masks=masks,
        weights={layer.name: layer.sha256 for layer in config.layers},
        allocation=config.allocation.label,
        sparsity_all_parameters=1 - kept / parameters,
        recipe=_settings(_mapping(config.info.get("config"))),
        dataset=_text(results.get("dataset")),
        results={key: results[key] for key in _FIGURES if _is_figure(results.get(key))},
        verdict=verdict,
        controls=controls,
        bytes_by_kind=bytes_by_kind(config),
    )


def _audit(artifact: Artifact) -> tuple[str, dict[str, float]]:
    """Verdict and controls of the audit, if it is consistent and about this mask."""
    try:
        report = read_audit(artifact)
    except ArtifactError:
        return "not valid", {}
    if report is None:
        return "–", {}
    return report.verdict, {name: report.models[name].top1.value for name in report.controls}


def _settings(settings: Mapping[str, Any]) -> str:
    words = [
        f"{key}={_text(str(value))}"
        for key, value in settings.items()
        if re.fullmatch(r"[a-z_]{1,40}", key) and value is not None
    ]
    return " ".join(words) or "defaults"


def _text(value: object) -> str:
    """Free text of an artifact, made safe for terminals and Markdown."""
    return (re.sub(r"[^\w ./:,+-]", "", value)[:60] if isinstance(value, str) else "") or "–"


def _is_figure(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
