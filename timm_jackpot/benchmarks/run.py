"""The benchmarks by name, over any timm models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch

from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.benchmarks.files import (
    data_path_ratio,
    decode_compact_ratio,
    decode_ratio,
    encode_compact_ratio,
    encode_ratio,
    load_ratio,
)
from timm_jackpot.benchmarks.memory import search_memory
from timm_jackpot.benchmarks.paired import Ratio
from timm_jackpot.benchmarks.steps import distill_step_ratio, reference_step_ratio, search_step_ratio
from timm_jackpot.errors import BaseError, ConfigError

_ON_DEVICE: Mapping[str, Callable[[str, BenchConfig], Ratio]] = {
    "search_step": search_step_ratio,
    "distill_step": distill_step_ratio,
    "reference_step": reference_step_ratio,
    "search_memory": search_memory,
    "data_path": data_path_ratio,
}
_ON_CPU: Mapping[str, Callable[[str, BenchConfig], Ratio]] = {
    "load": load_ratio,
    "encode": encode_ratio,
    "decode": decode_ratio,
    "encode_compact": encode_compact_ratio,
    "decode_compact": decode_compact_ratio,
}


def run_benchmarks(config: BenchConfig) -> list[dict[str, Any]]:
    """One row per benchmark and model: `what, model, device, dtype, ratio, ratio_min, ratio_max, n`.

    `ratio` is the median over the pairs; of search_memory it is bytes for each maskable weight.

    Raises:
        ConfigError, BaseError: for an unknown benchmark or model.
    """
    unknown = sorted(set(config.what) - {*_ON_DEVICE, *_ON_CPU})
    if unknown:
        raise ConfigError(f"--what {unknown[0]}: there are {', '.join([*_ON_DEVICE, *_ON_CPU])}")
    missing = [name for name in config.models if not timm.models.is_model(name)]
    if missing:
        raise BaseError(f"unknown model {missing[0]!r}: see timm.list_models() for the names")
    rows = []
    for model in config.models:
        for what in config.what:
            torch.manual_seed(0)
            on_device = what in _ON_DEVICE
            ratio = (_ON_DEVICE if on_device else _ON_CPU)[what](model, config)
            rows.append(
                {
                    "what": what,
                    "model": model,
                    "device": config.device.type if on_device else "cpu",
                    "dtype": "bfloat16" if config.bf16 and on_device else "float32",
                    "ratio": round(ratio.median, 3),
                    "ratio_min": round(ratio.smallest, 3),
                    "ratio_max": round(ratio.largest, 3),
                    "n": ratio.n,
                }
            )
    return rows


def rows_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    return "\n".join(
        f"{row['what']:<16}{row['model']:<24}{row['device']:<6}{row['dtype']:<10}"
        f"{row['ratio']:6.3f}  ({row['ratio_min']:.3f} to {row['ratio_max']:.3f}, n = {row['n']})"
        for row in rows
    )
