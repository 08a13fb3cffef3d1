"""The table that a search prints."""

from __future__ import annotations

from pathlib import Path

from timm_jackpot.artifact import size_line
from timm_jackpot.search.config import RunConfig
from timm_jackpot.search.run import SearchResult, random_base_of


def comparison_table(result: SearchResult, config: RunConfig) -> str:
    """Test accuracy of the dense base, the controls and the jackpot; the artifact's size; the code that loads it."""
    summary, comparison = result.summary, result.comparison
    dense_bytes = 4 * result.jackpot.kept_of_all[1]
    head = " + head" if comparison.magnitude is None else ""
    rows = {
        f"dense{head}": comparison.dense,
        "magnitude one-shot": comparison.magnitude,
        f"magnitude, norm statistics re-estimated{head}": comparison.magnitude_recalibrated,
        "jackpot": comparison.jackpot,
    }
    width = max(map(len, rows))
    lines = [
        f"{summary['model']} on {summary['dataset']} (test, n = {summary['test_images']}), "
        f"sparsity {100 * summary['sparsity']:.2f} % of the maskable weights, "
        f"{100 * summary['sparsity_all_parameters']:.2f} % of all parameters",
        "",
        f"{'':<{width}}   top-1",
        *(f"{name:<{width}}  {accuracy.top1:6.2f}" for name, accuracy in rows.items() if accuracy is not None),
        "",
        f"artifact {summary['artifact']}: {summary['artifact_bytes']} bytes "
        f"(dense float32 parameters: {dense_bytes} bytes)",
        f"of them {size_line(summary['bytes_by_kind'], summary['artifact_bytes'])}",
        "",
        "from timm_jackpot import from_pretrained",
        f"model = from_pretrained({summary['artifact']!r}{_base_argument(result, config)})",
    ]
    return "\n".join(lines)


def _base_argument(result: SearchResult, config: RunConfig) -> str:
    if result.jackpot.base.ref.source == "module":
        return ", base=module"
    checkpoint = config.base_checkpoint if config.pretrained else str(random_base_of(Path(result.summary["artifact"])))
    if checkpoint is None and config.model.startswith("local-dir:"):
        checkpoint = f"{config.model.removeprefix('local-dir:')}/model.safetensors"
    return f", base_checkpoint={checkpoint!r}" if checkpoint else ""
