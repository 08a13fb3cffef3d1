"""What is in an artefact: per layer, in all, in bytes."""

from __future__ import annotations

from math import log2
from pathlib import Path
from typing import Any

from timm_jackpot.artefact.read import Artefact
from timm_jackpot.artefact.schema import CONFIG, EXTRAS, MASKS


def artefact_report(artefact: Artefact) -> dict[str, Any]:
    """Layers (name, shape, kept, sparsity), totals, and the bytes of each file against the dense checkpoint."""
    config = artefact.config
    layers = [
        {
            "name": layer.name,
            "shape": layer.shape,
            "kept": layer.kept,
            "total": mask.numel(),
            "sparsity": 1 - layer.kept / mask.numel(),
        }
        for layer, mask in zip(config.layers, artefact.masks.values(), strict=True)
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
        "bytes": {name: file_bytes(artefact.folder / name) for name in (CONFIG, MASKS, EXTRAS)},
        "mask_entropy_bytes": round(sum(entropy_bits(layer["kept"], layer["total"]) for layer in layers) / 8),
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
    lines.append(f"entropy bound of the masks, layer by layer: {report['mask_entropy_bytes']} bytes")
    return "\n".join(lines)


def entropy_bits(kept: int, total: int) -> float:
    """Shannon bound for a mask of `total` elements of which `kept` are set, all such masks equally likely."""
    if kept in (0, total):
        return 0.0
    density = kept / total
    return -total * (density * log2(density) + (1 - density) * log2(1 - density))


def file_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
