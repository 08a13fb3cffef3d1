"""The model card: rendered from the artifact alone, so the same artifact always gives the same bytes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined
from timm.models import get_pretrained_cfg, is_model

from timm_jackpot.artifact import KINDS, Artifact, artifact_report
from timm_jackpot.base import BaseRef
from timm_jackpot.evidence import audit_section, data_label, exports_section, read_audit, read_exports, verdict_line
from timm_jackpot.plots import AUDIT_PICTURES, SEARCH_PICTURES
from timm_jackpot.recipes import package_folder

_TAGS = ["timm", "image-classification", "pruning", "sparsity", "lottery-ticket", "lottery-jackpot"]
_ARGUMENT = {"file": ", base_checkpoint=…", "module": ", base=module"}  # what the reader has to provide
# Names on the Hub of data sets with other names here; cards list no other data set except hfds/ ones.
_HUB_DATASETS = {"torch/cifar10": "uoft-cs/cifar10", "torch/cifar100": "uoft-cs/cifar100"}


def default_repo_name(artifact: Artifact) -> str:
    """`{base}-jackpot-{sparsity}`, e.g. resnet50.a1_in1k-jackpot-0.9."""
    return f"{artifact.config.base.name}-jackpot-{artifact.config.sparsity.requested}"


def render_card(
    artifact: Artifact,
    *,
    repo_id: str | None = None,
    base_license: str | None = None,
    pictures: tuple[str, ...] = (),
) -> str:
    """README.md of an artifact.

    Args:
        repo_id: the repo it is (or will be) published in; the line that loads it uses this.
        base_license: license of the base, which the jackpot inherits. Default: the one in timm's registry; left out if
            unknown.
        pictures: image files next to the card, by name.

    Raises:
        ArtifactError: if the artifact's audit.json or the report of an export is invalid, or of another mask.
    """
    config = artifact.config
    audit = read_audit(artifact)
    audit_pictures = {file: text for file, text in AUDIT_PICTURES.items() if file in pictures}
    base_license = base_license or _registered_license(config.base)
    results = _mapping(config.info.get("results"))
    cells = {key: _cell(results.get(key)) for key in _RESULTS}
    settings = _mapping(config.info.get("config"))
    report = artifact_report(artifact)
    template = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    ).from_string((package_folder("hubcards") / "card.md.jinja").read_text(encoding="utf-8"))
    name = default_repo_name(artifact)
    return template.render(
        metadata=_metadata(artifact, name, results, base_license),
        name=name,
        source=json.dumps(repo_id or "."),
        published=repo_id is not None,
        argument=_ARGUMENT.get(config.base.source, ""),
        base=config.base,
        report=report,
        extras=_sizes_of_extras(report),
        artifact_bytes=sum(report["bytes"].values()),
        dense=_left_dense(report["dense"]),
        results=cells,
        measured=any(cell != "–" for cell in cells.values()),
        n=_whole(results.get("test_images")),
        dataset=data_label(_text(results.get("dataset")) or "–"),
        steps=_whole(results.get("steps")),
        seconds=_cell(results.get("seconds")),
        device=_text(results.get("device")) or "–",
        processes=_whole(results.get("processes")),
        seed=_whole(results.get("seed")),
        command=_command(artifact, settings),
        statistics=any(extra.role == "norm_statistics" for extra in config.extras),
        head=config.head,
        pictures={file: SEARCH_PICTURES.get(file, file) for file in pictures if file not in AUDIT_PICTURES},
        audit=None if audit is None else audit_section(audit, pictures=audit_pictures),
        verdict=None if audit is None else verdict_line(audit),
        exports=exports_section(read_exports(artifact)),
        base_license=base_license,
    )


_RESULTS = ("dense_top1", "magnitude_top1", "magnitude_recalibrated_top1", "jackpot_top1")


def _metadata(artifact: Artifact, name: str, results: Mapping[str, Any], base_license: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    config = artifact.config
    dataset = _text(results.get("dataset"))
    hub_dataset = _HUB_DATASETS.get(dataset) or (dataset[5:] if dataset.startswith("hfds/") else None)
    top1 = results.get("jackpot_top1")
    measured = isinstance(top1, float) and bool(dataset)
    evaluations = [
        EvalResult(
            task_type="image-classification",
            dataset_type=hub_dataset or dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="top-1 accuracy (%)",
            metric_value=round(float(top1 or 0), 2),
        )
    ]
    relation: dict[str, Any] = {"base_model_relation": "adapter"} if config.base.hub_id else {}
    data = ModelCardData(
        library_name="timm-jackpot",
        pipeline_tag="image-classification",
        tags=_TAGS,
        license=base_license,
        base_model=config.base.hub_id,
        datasets=[hub_dataset] if hub_dataset else None,
        model_name=name,
        eval_results=evaluations if measured else None,
        **relation,
    )
    return data.to_yaml()


def _registered_license(base: BaseRef) -> str | None:
    if base.source != "timm" or not is_model(base.architecture):
        return None
    cfg = get_pretrained_cfg(base.name, allow_unregistered=False)
    return cfg.license if cfg is not None else None


def _left_dense(dense: list[dict[str, str]]) -> str:
    """The weights left dense, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for weight in dense:
        by_reason.setdefault(_text(weight["reason"]), []).append(f"`{weight['name']}`")
    groups = [
        f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''} (`{reason}`)"
        for reason, names in by_reason.items()
    ]
    return "; ".join(groups) or "nothing"


def _sizes_of_extras(report: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of norm statistics, norms and head, by what they are and how they are stored."""
    return {
        f"{KINDS[kind]}, {' and '.join(dtypes)}": report["bytes_by_kind"][kind]
        for kind, dtypes in report["extras_dtypes"].items()
        if dtypes
    }


def _command(artifact: Artifact, settings: Mapping[str, Any]) -> str:
    """The search command, with the settings that the artifact records as not default."""
    if artifact.config.base.source == "module":
        return "# in Python: search_jackpot(SearchConfig(…), base=base_from_module(module, …))"
    words = ["accelerate launch -m timm_jackpot.search"]
    if artifact.config.base.source == "file" and not str(settings.get("model", "")).startswith("local-dir:"):
        words.append("--base-checkpoint FILE.safetensors")
    searched_on = _mapping(artifact.config.info.get("results")).get("dataset")
    if searched_on == "folder" or settings.get("dataset_name"):
        words.append("--data-dir FOLDER")
    for key, value in settings.items():
        if not re.fullmatch(r"[a-z_]{1,40}", key) or value is None or value in ([], ""):
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            items = value if isinstance(value, list) else [value]
            words.append(f"--{flag} {' '.join(map(_word, items))}")
    return " \\\n    ".join(words)


def _word(value: object) -> str:
    return shlex.quote(re.sub(r"[^\w ./:=@+()-]", "", str(value))[:100])


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "–"


def _whole(value: object) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else "–"


def _text(value: object) -> str:
    """Free text of an artifact, made safe for HTML and, between backticks, for Markdown: no URL becomes a link."""
    return re.sub(r"[^\w ./:()+-]", "", value)[:200] if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
