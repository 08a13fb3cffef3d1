"""Which weights a mask may cover, and why the others are left dense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

_WEIGHT_STANDARDISED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


class DenseWeight(NamedTuple):
    """A conv or linear weight that is left alone, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Maskable:
    """The conv and linear weights of a model, in the order in which its module tree is visited."""

    weights: dict[str, nn.Parameter]
    dense: list[DenseWeight]
    aliases: dict[str, str]  # second name of a tied weight → its first name

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    @property
    def sizes(self) -> dict[str, int]:
        return {name: prod(shape) for name, shape in self.shapes.items()}


def maskable_weights(model: nn.Module, *, mask_classifier: bool = False) -> Maskable:
    """Find the weights that a mask may cover: conv and linear weights except the classifier.

    Args:
        model: a timm model, or any other module.
        mask_classifier: cover the classifier too (the reference leaves it dense).

    Returns:
        Names (as in the state dict) with their parameters, the weights left dense with the reason for each,
        and the second names of tied weights.
    """
    classifiers = set() if mask_classifier else set(_classifier_weights(model))
    weights: dict[str, nn.Parameter] = {}
    dense: list[DenseWeight] = []
    aliases: dict[str, str] = {}
    first_name: dict[int, str] = {}
    for name, module, weight in _candidates(model):
        if id(weight) in first_name:
            if first_name[id(weight)] in weights:
                aliases[name] = first_name[id(weight)]
            else:
                dense.append(DenseWeight(name, f"tied to {first_name[id(weight)]}"))
            continue
        first_name[id(weight)] = name
        reason = _reason_to_leave_dense(module, weight, id(weight) in classifiers)
        if reason:
            dense.append(DenseWeight(name, reason))
        else:
            weights[name] = weight
    return Maskable(weights, dense, aliases)


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute in _attributes(module):
            weight = getattr(module, attribute, None)
            if isinstance(weight, nn.Parameter):
                yield (f"{prefix}.{attribute}" if prefix else attribute), module, weight


def _attributes(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ("weight",) if isinstance(module, (_ConvNd, nn.Linear)) else ()


def _reason_to_leave_dense(module: nn.Module, weight: Tensor, is_classifier: bool) -> str | None:
    if is_classifier:
        return "classifier"
    if isinstance(module, _WEIGHT_STANDARDISED):
        return "weight-standardised: its zeros would not stay zero"
    if isinstance(module, nn.MultiheadAttention):
        return "packed attention projection, not the weight of a conv or linear layer"
    if weight.numel() == 0:
        return "empty"
    return None


def _classifier_weights(model: nn.Module) -> Iterator[int]:
    """Identities of the classifier's weights, by timm's own account of where the classifier is."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    for name in (named,) if isinstance(named, str) else named:
        try:
            yield from (id(p) for p in model.get_submodule(name).parameters())
        except AttributeError:
            continue
    if hasattr(model, "get_classifier"):
        found = model.get_classifier()  # pyright: ignore[reportCallIssue]
        for module in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(module, nn.Module):
                yield from (id(p) for p in module.parameters())
