"""The benchmarks by name, over any timm models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import timm
import torch

from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.benchmarks.exports import export_rows, export_text
from timm_jackpot.benchmarks.files import (
    data_path_ratio,
    decode_compact_ratio,
    decode_ratio,
    encode_compact_ratio,
    encode_ratio,
    image_files_ratio,
    load_ratio,
)
from timm_jackpot.benchmarks.memory import search_memory
from timm_jackpot.benchmarks.serving import serve_memory, serve_routed_ratio, serve_switch_ratio
from timm_jackpot.benchmarks.steps import distill_step_ratio, reference_step_ratio, search_step_ratio
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.runtime.paired import Ratio

_ON_DEVICE: Mapping[str, Callable[[str, BenchConfig], Ratio]] = {
    "search_step": search_step_ratio,
    "distill_step": distill_step_ratio,
    "reference_step": reference_step_ratio,
    "search_memory": search_memory,
    "data_path": data_path_ratio,
}
_ON_CPU: Mapping[str, Callable[[str, BenchConfig], Ratio]] = {
    "image_files": image_files_ratio,
    "load": load_ratio,
    "encode": encode_ratio,
    "decode": decode_ratio,
    "encode_compact": encode_compact_ratio,
    "decode_compact": decode_compact_ratio,
}
_SERVING: Mapping[str, Callable[[str, BenchConfig, int], Ratio]] = {
    "serve_memory": serve_memory,
    "serve_switch": serve_switch_ratio,
    "serve_routed": serve_routed_ratio,
    "serve_routed_8": partial(serve_routed_ratio, images_per_task=8),
}
_EXPORT = "export"
_ALL = (*_ON_DEVICE, *_ON_CPU, *_SERVING, _EXPORT)


def run_benchmarks(config: BenchConfig) -> list[dict[str, Any]]:
    """One row per benchmark and model: `what, model, device, dtype, ratio, ratio_min, ratio_max, n, ms`.

    `ratio` is the median over the pairs; of search_memory it is bytes for each maskable weight. `ms` is the median time
    of what is measured, None if it is no time. Benchmarks of serving have one row per number of `tasks`.

    Raises:
        ConfigError, BaseError: for an unknown benchmark or model.
    """
    unknown = sorted(set(config.what) - set(_ALL))
    if unknown:
        raise ConfigError(f"--what {unknown[0]}: there are {', '.join(_ALL)}")
    missing = [name for name in config.models if not timm.models.is_model(name)]
    if missing:
        raise BaseError(f"unknown model {missing[0]!r}: see timm.list_models() for the names")
    rows = []
    for model, what in product(config.models, config.what):
        if what == _EXPORT:
            rows += [{"what": what, "model": model, **row} for row in export_rows(model, config)]
        elif what in _SERVING:
            device = "cpu" if what == "serve_memory" else config.device.type  # adapters are kept in CPU memory
            for tasks in config.tasks:
                torch.manual_seed(0)
                ratio = _SERVING[what](model, config, tasks)
                rows.append(_row(ratio, what, model, device, "float32") | {"tasks": tasks})
        else:
            torch.manual_seed(0)
            on_device = what in _ON_DEVICE
            ratio = (_ON_DEVICE if on_device else _ON_CPU)[what](model, config)
            device, dtype = (
                (config.device.type, "bfloat16" if config.bf16 else "float32") if on_device else ("cpu", "float32")
            )
            rows.append(_row(ratio, what, model, device, dtype))
    return rows


def rows_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = []
    for row in rows:
        if row["what"] == _EXPORT:
            lines.append(export_text(row))
            continue
        model = row["model"] + (f", {row['tasks']} tasks" if "tasks" in row else "")
        ms = "" if row["ms"] is None else f"  {row['ms']:.2f} ms"
        lines.append(
            f"{row['what']:<16}{model:<32}{row['device']:<6}{row['dtype']:<10}"
            f"{row['ratio']:6.3f}  ({row['ratio_min']:.3f} to {row['ratio_max']:.3f}, n = {row['n']}){ms}"
        )
    return "\n".join(lines)


def _row(ratio: Ratio, what: str, model: str, device: str, dtype: str) -> dict[str, Any]:
    return {
        "what": what,
        "model": model,
        "device": device,
        "dtype": dtype,
        "ratio": round(ratio.median, 3),
        "ratio_min": round(ratio.smallest, 3),
        "ratio_max": round(ratio.largest, 3),
        "n": ratio.n,
        "ms": None if ratio.ms is None else round(ratio.ms, 3),
    }
