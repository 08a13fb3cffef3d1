"""The benchmarks by name, over any timm models."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import nn

from timm_jackpot.adapter import attach
from timm_jackpot.artefact import Jackpot, from_pretrained, save_pretrained
from timm_jackpot.base import load_base, maskable_weights
from timm_jackpot.benchmarks.paired import Ratio, paired_ratio
from timm_jackpot.criteria import magnitude
from timm_jackpot.data.open import data_config
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.masks import MaskSet, allocate, keep_largest
from timm_jackpot.training import Objective, frozen_teacher


class BenchConfig(BaseModel):
    """Time of the package's work over that of plain timm and torch doing the same without it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    what: tuple[str, ...] = ("search_step", "distill_step", "load")
    """Which benchmarks: search_step, distill_step (each over a dense training step of the same model, batch and
    precision), load (from_pretrained over timm.create_model, from the same local weights)."""
    models: tuple[str, ...] = ("resnet50",)
    """timm architectures, with random weights."""
    batch_size: int = Field(default=16, ge=2, json_schema_extra={"flags": ["-b"]})
    """Images per step."""
    img_size: int = Field(default=96, ge=32)
    """Image size of the steps, in pixels."""
    bf16: bool = False
    """Steps under bf16 autocast."""
    pairs: int = Field(default=7, ge=1)
    """Counted pairs of each benchmark."""


def run_benchmarks(config: BenchConfig) -> list[dict[str, Any]]:
    """One row per benchmark and model: `what, model, device, dtype, ratio, ratio_min, ratio_max, n`.

    Raises:
        ConfigError, BaseError: for an unknown benchmark or model.
    """
    unknown = sorted(set(config.what) - set(_BENCHMARKS))
    if unknown:
        raise ConfigError(f"--what {unknown[0]}: there are {', '.join(_BENCHMARKS)}")
    missing = [name for name in config.models if not timm.models.is_model(name)]
    if missing:
        raise BaseError(f"unknown model {missing[0]!r}: see timm.list_models() for the names")
    rows = []
    for model in config.models:
        for what in config.what:
            torch.manual_seed(0)
            on_device = what != "load"
            ratio = _BENCHMARKS[what](model, config)
            rows.append(
                {
                    "what": what,
                    "model": model,
                    "device": _device().type if on_device else "cpu",
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
        f"{row['what']:<14}{row['model']:<24}{row['device']:<6}{row['dtype']:<10}"
        f"{row['ratio']:6.3f}  ({row['ratio_min']:.3f} to {row['ratio_max']:.3f}, n = {row['n']})"
        for row in rows
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _search_step(name: str, config: BenchConfig) -> Ratio:
    return _step_ratio(name, config, distill=False)


def _distill_step(name: str, config: BenchConfig) -> Ratio:
    return _step_ratio(name, config, distill=True)


def _step_ratio(name: str, config: BenchConfig, *, distill: bool) -> Ratio:
    """A search step (masks recomputed in each, as by default) over a dense step."""
    dense = timm.create_model(name, num_classes=100).to(_device()).train()
    searched = copy.deepcopy(dense).requires_grad_(False)
    teacher = frozen_teacher(searched) if distill else None
    weights = maskable_weights(searched).weights
    scores = magnitude(weights)
    kept = allocate("global", scores, "0.9")
    adapter = attach(searched, scores, kept)
    images = torch.randn(config.batch_size, 3, config.img_size, config.img_size, device=_device())
    labels = torch.randint(100, (config.batch_size,), device=_device())
    ours = _step(searched, adapter.scores(), Objective(0.0, teacher, 0.5 if distill else 0.0), images, labels, config)
    theirs = _step(dense, list(dense.parameters()), Objective(), images, labels, config)

    def search() -> None:
        adapter.refresh(kept)
        ours()

    return paired_ratio(search, theirs, pairs=config.pairs, warmup=2)


def _step(
    model: nn.Module,
    parameters: list[nn.Parameter],
    objective: Objective,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: BenchConfig,
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.autocast(_device().type, dtype=torch.bfloat16, enabled=config.bf16):
            loss = objective(model, images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _load(name: str, config: BenchConfig) -> Ratio:
    """`from_pretrained` of a local artefact over `timm.create_model` with the same local weights."""
    with tempfile.TemporaryDirectory() as temporary:
        weights, folder = Path(temporary) / "base.safetensors", Path(temporary) / "jackpot"
        save_file({n: t.contiguous() for n, t in timm.create_model(name).state_dict().items()}, weights)
        base = load_base(name, base_checkpoint=weights)
        maskable = maskable_weights(base.model)
        scores = magnitude(maskable.weights)
        kept = allocate("global", scores, "0.9")
        masks = MaskSet({layer: keep_largest(values, kept[layer]) for layer, values in scores.items()})
        save_pretrained(Jackpot(base, maskable, masks, {}, "0.9", "global", data_config(base.model)), folder)
        del base, maskable, scores, masks
        overlay = {"file": str(weights)}
        return paired_ratio(
            lambda: from_pretrained(folder, base_checkpoint=weights),
            lambda: timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay),
            pairs=config.pairs,
        )


_BENCHMARKS: Mapping[str, Callable[[str, BenchConfig], Ratio]] = {
    "search_step": _search_step,
    "distill_step": _distill_step,
    "load": _load,
}
