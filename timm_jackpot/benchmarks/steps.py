"""Training steps: dense, searching, distilling, and the reference's way of searching."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn.utils import parametrize

from timm_jackpot.adapter import attach
from timm_jackpot.base import create_timm_model, maskable_weights, working_copy
from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.criteria import magnitude
from timm_jackpot.masks import allocate
from timm_jackpot.methods.equalise import equalise_gradients
from timm_jackpot.runtime.paired import Ratio, paired_ratio
from timm_jackpot.training import Objective

Step = Callable[[], None]
_CLASSES = 100
_REFRESH_INTERVAL = 10  # the default search's


def search_step_ratio(name: str, config: BenchConfig) -> Ratio:
    """The default search's step without distillation: thresholds recomputed, layers equalised."""
    return _over_dense(name, config, lambda model: search_step(model, config))


def distill_step_ratio(name: str, config: BenchConfig) -> Ratio:
    """The default search's step."""
    return _over_dense(name, config, lambda model: search_step(model, config, distill=True))


def reference_step_ratio(name: str, config: BenchConfig) -> Ratio:
    """A search that sorts every layer's scores in every forward."""
    return _over_dense(name, config, lambda model: _reference_step(model, config))


def build(name: str, config: BenchConfig) -> nn.Module:
    """A model with random weights, in train mode on the device."""
    requested: dict[str, Any] = {"num_classes": _CLASSES, "img_size": config.img_size}
    model = create_timm_model(name, requested, pretrained=False).to(config.device).train()
    return model.to(memory_format=torch.channels_last) if config.in_channels_last else model  # pyright: ignore


def dense_step(model: nn.Module, config: BenchConfig) -> Step:
    """A step of ordinary training."""
    return _step(model, list(model.parameters()), Objective(), config)[0]


def search_step(model: nn.Module, config: BenchConfig, *, distill: bool = False) -> Step:
    """A step of the search, at its final sparsity; a tenth of the layers have their thresholds recomputed in each."""
    model.requires_grad_(False)
    teacher = working_copy(model).eval() if distill else None
    scores = magnitude(maskable_weights(model).weights)
    kept = allocate("global", scores, "0.9")
    adapter = attach(model, scores, kept)
    objective = Objective(teacher=teacher, distill_weight=0.5 if distill else 0.0)
    step, optimizer = _step(model, adapter.scores(), objective, config)
    equalise_gradients(optimizer, adapter.scores())

    layers, steps = list(adapter), itertools.count()

    def with_its_share_of_refreshes() -> None:
        for name in layers[next(steps) % _REFRESH_INTERVAL :: _REFRESH_INTERVAL]:
            adapter[name].refresh(kept[name])
        step()

    return with_its_share_of_refreshes


class _SortedInForward(nn.Module):
    """The mask from a full sort of the scores, in every forward; gradients pass straight through."""

    def __init__(self, scores: Tensor, kept: int) -> None:
        super().__init__()
        self.scores, self.kept = nn.Parameter(scores), kept

    def forward(self, weight: Tensor) -> Tensor:
        order = self.scores.detach().flatten().argsort()
        mask = torch.zeros(self.scores.numel(), device=weight.device)
        mask[order[len(order) - self.kept :]] = 1.0
        gate = mask.view_as(weight) + self.scores - self.scores.detach()
        return weight * gate


def _reference_step(model: nn.Module, config: BenchConfig) -> Step:
    model.requires_grad_(False)
    scores = magnitude(maskable_weights(model).weights)
    kept = allocate("global", scores, "0.9")
    layers = {name: _SortedInForward(values.clone(), kept[name]) for name, values in scores.items()}
    for name, layer in layers.items():
        prefix, _, attribute = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(prefix), attribute, layer, unsafe=True)
    return _step(model, [layer.scores for layer in layers.values()], Objective(), config)[0]


def _over_dense(name: str, config: BenchConfig, make: Callable[[nn.Module], Step]) -> Ratio:
    dense = build(name, config)
    ours = make(copy.deepcopy(dense))
    return paired_ratio(ours, dense_step(dense, config), pairs=config.pairs, warmup=2)


def _step(
    model: nn.Module, parameters: list[nn.Parameter], objective: Objective, config: BenchConfig
) -> tuple[Step, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=5e-4)
    size = resolve_model_data_config(model)["input_size"][0], config.img_size, config.img_size
    images = torch.randn(config.batch_size, *size, device=config.device)
    if config.in_channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(_CLASSES, (config.batch_size,), device=config.device)

    def step() -> None:
        with torch.autocast(config.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            loss = objective(model, images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, optimizer
