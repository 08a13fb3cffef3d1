"""What is in an artifact: layers, totals and file sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from timm_jackpot.artifact.extras import bytes_by_kind
from timm_jackpot.artifact.read import Artifact
from timm_jackpot.artifact.schema import COMPACT, CONFIG, EXTRAS, MASKS
from timm_jackpot.base import Base
from timm_jackpot.masks import packed_bytes

KINDS: Mapping[str, str] = MappingProxyType(
    {"mask": "mask", "norm_statistics": "norm statistics", "norm_affine": "norm scales and shifts", "head": "head"}
)
"""What an artifact stores for its task, and how tables call it."""

_DTYPES: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8"}


def artifact_report(artifact: Artifact, base: Base | None = None) -> dict[str, Any]:
    """Layers (name, shape, kept, sparsity), totals, and the bytes of each file and of each kind of tensor.

    Args:
        base: unchanged since loading (`open_artifact`). If given, the masks are fully checked against it.

    Raises:
        JackpotError: if the masks do not fit the base.
    """
    config = artifact.config
    if base:
        artifact.masks_on(base)
    layers = [
        {
            "name": layer.name,
            "shape": layer.shape,
            "kept": layer.kept,
            "total": layer.total,
            "sparsity": 1 - layer.kept / layer.total,
        }
        for layer in config.layers
    ]
    kept, total = config.sparsity.maskable
    kept_all, all_parameters = config.sparsity.all_parameters
    return {
        "base": config.base.name,
        "digest": config.base.digest,
        "allocation": config.allocation.label,
        "layers": layers,
        "dense": [weight.model_dump() for weight in config.dense],
        "kept": kept,
        "total": total,
        "sparsity": 1 - kept / total if total else 0.0,
        "sparsity_all_parameters": 1 - kept_all / all_parameters,
        "encoding": config.encoding,
        "mask_hash_checked": base is not None or (artifact.shapes_checked and config.encoding != COMPACT),
        "bytes": {name: file_bytes(artifact.folder / name) for name in (CONFIG, MASKS, EXTRAS)},
        "bytes_by_kind": bytes_by_kind(config),
        "extras_dtypes": {
            kind: list(dict.fromkeys(_DTYPES[entry.dtype] for entry in config.extras if entry.role == kind))
            for kind in KINDS
            if kind != "mask"
        },
        "packed_bytes": sum(packed_bytes(layer.total) for layer in config.layers),
        "dense_bytes": 4 * all_parameters,
    }


def report_table(report: dict[str, Any]) -> str:
    """The report as text, one line per layer."""
    width = max([len(layer["name"]) for layer in report["layers"]] + [len(w["name"]) for w in report["dense"]] + [5])
    lines = [f"{report['base']}, {report['allocation']} allocation, base digest {report['digest'][:12]}", ""]
    lines.append(f"{'layer':<{width}}  {'shape':>18}  {'kept':>10}  {'of':>10}  sparsity")
    lines += [
        f"{layer['name']:<{width}}  {'×'.join(map(str, layer['shape'])):>18}  {layer['kept']:>10}  "
        f"{layer['total']:>10}  {100 * layer['sparsity']:7.2f} %"
        for layer in report["layers"]
    ]
    lines += [f"{weight['name']:<{width}}  dense: {weight['reason']}" for weight in report["dense"]]
    lines += [
        "",
        f"maskable weights: {report['kept']} of {report['total']} kept, sparsity {100 * report['sparsity']:.2f} %",
        f"all parameters: sparsity {100 * report['sparsity_all_parameters']:.2f} %",
    ]
    dense = report["dense_bytes"]
    lines += [
        f"{name}: {size} bytes, {100 * size / dense:.2f} % of the dense float32 parameters ({dense} bytes)"
        for name, size in report["bytes"].items()
        if size
    ]
    lines += [
        f"{KINDS[kind]}: {report['bytes_by_kind'][kind]} bytes, stored as {' and '.join(dtypes)}"
        for kind, dtypes in report["extras_dtypes"].items()
        if dtypes
    ]
    bits = 8 * report["bytes"][MASKS] / report["total"]
    lines.append(f"masks: stored {report['encoding']}, {bits:.3f} bits per maskable weight")
    if report["encoding"] == COMPACT:
        lines[-1] += f" (packed, they would take {report['packed_bytes']} bytes)"
    if not report["mask_hash_checked"]:
        lines.append("which weights are kept can only be checked with the base (--verify)")
    return "\n".join(lines)


def size_line(sizes: Mapping[str, int], total: int) -> str:
    """Bytes by kind in one line; what `total`, all files, has beyond them is names, shapes and config.json."""
    kinds = [f"{label} {sizes[kind]}" for kind, label in KINDS.items() if sizes[kind]]
    return ", ".join([*kinds, f"config.json and header {total - sum(sizes.values())}"])


def file_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
