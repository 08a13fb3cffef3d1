"""LoRA, by the package peft."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from timm_jackpot.base import working_copy
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.cost import forward_flops
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.task import ChangedTensor, Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import WarmHeadFlags, changed_tensors, head_of, train_network, unfreeze, warm_head
from timm_jackpot.training import average_norm_statistics


class LoraSettings(WarmHeadFlags):
    """Settings of LoRA."""

    group: ClassVar[str] = "Search"

    opt: Literal["sgd", "adam", "adamw"] = "adamw"
    """Optimizer."""
    lr: float = Field(default=1e-3, ge=1e-12, le=1e6)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.0, ge=0, le=1e3)
    """Decay of the trained parameters."""
    rank: int = Field(default=8, ge=1, le=4096)
    """Rank of each update (r)."""
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    """The update is scaled by alpha / rank. Default: 2 × rank."""


@register_method("lora", family="reference", paper="arXiv:2106.09685", finds_jackpots=False)
def lora(task: Task, budget: Budget, settings: LoraSettings) -> Outcome:
    """Low-rank updates of linear and conv weights, with the head; norm statistics move. Needs the package peft.

    The weights are those that a mask covers, except grouped convolutions, where the rank would have to be a multiple of
    the groups, and what torch's own attention reads without a forward.
    """
    watch = Stopwatch()
    head_roles = head_of(task.base)
    model = working_copy(task.base.model, own=head_roles.keys())
    layers = _add_updates(model, task, settings)
    _, head = unfreeze(model, head_roles)
    factors = {name: p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}
    train_network(
        model,
        task,
        settings,
        rest=list(factors.values()),
        head=head,
        steps=warm_head(model, head, task, budget, settings),
        seed=budget.seed,
        title="train",
    )
    average_norm_statistics(model, task.accelerator)
    changed = changed_tensors(model, head_roles)
    for name, layer in layers.items():
        merged = layer.get_base_layer().weight + layer.get_delta_weight("default")
        changed[f"{name}.weight"] = ChangedTensor("weights", merged.detach().cpu())
    return Outcome(
        None,
        changed,
        budget.steps,
        watch.seconds,
        factors={f"{name}.weight": _factors_of(layer) for name, layer in layers.items()},
        extra_flops=forward_flops(model, task) / forward_flops(task.base.model, task) - 1,
        phases=(Phase("training", budget.steps),),
    )


def _add_updates(model: nn.Module, task: Task, settings: LoraSettings) -> dict[str, Any]:
    """Wrap the layers of `model`, in place; returns the wrapped layers by name."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ConfigError("the method lora needs the package peft: pip install 'timm-jackpot[lora]'") from error

    unread = {f"{n}.out_proj" for n, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    head = head_of(task.base)
    weights = (name for name in task.maskable.weights if name.endswith(".weight") and name not in head)
    owners = [owner for name in weights if (owner := name.removesuffix(".weight")) not in unread]
    names = [name for name in owners if _takes_update(model.get_submodule(name))]
    if not names:
        raise BaseError(f"{task.base.ref.name} has no linear or conv layers for LoRA to update")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha or 2 * settings.rank),
        target_modules="|".join(map(re.escape, names)),
    )
    inject_adapter_in_model(config, model)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def _factors_of(layer: Any) -> tuple[Tensor, Tensor]:
    a, b = (part["default"].weight.detach().cpu() for part in (layer.lora_A, layer.lora_B))
    return a, b


def _takes_update(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
