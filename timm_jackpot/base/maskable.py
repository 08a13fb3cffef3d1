"""Find the weights that can be masked, and the reason for every other weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from timm_jackpot.base.channels import Filters
from timm_jackpot.base.weight_tracing import altered_weights
from timm_jackpot.errors import BaseError
from timm_jackpot.masks.patterns import matching, nearest

_WEIGHT_STANDARDIZED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


class DenseWeight(NamedTuple):
    """A weight that stays dense, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Maskable:
    """The maskable weights of a model, in the order of its module tree."""

    weights: dict[str, nn.Parameter]
    dense: list[DenseWeight]
    aliases: dict[str, str]  # second name of a tied weight → its first name
    filters: Filters | None = None  # under the allocation `filters`

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.weights.items()}

    @property
    def sizes(self) -> dict[str, int]:
        return {name: prod(shape) for name, shape in self.shapes.items()}

    def leave_dense(self, reasons: Mapping[str, str]) -> Maskable:
        """A copy with the weights in `reasons` (by their first names) left dense."""
        tied = [(second, first) for second, first in self.aliases.items() if first in reasons]
        return Maskable(
            {name: weight for name, weight in self.weights.items() if name not in reasons},
            [
                *self.dense,
                *(DenseWeight(name, reasons[name]) for name in self.weights if name in reasons),
                *(DenseWeight(second, f"tied to {first}") for second, first in tied),
            ],
            {second: first for second, first in self.aliases.items() if first not in reasons},
        )


def maskable_weights(
    model: nn.Module,
    *,
    mask_classifier: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    images: Tensor | None = None,
) -> Maskable:
    """Find the maskable weights: conv and linear weights except the classifier.

    Args:
        model: a timm model, or any other module.
        mask_classifier: include the classifier (the paper leaves it dense).
        include: shell patterns (`stages.3.*`); if given, all weights that match none stay dense.
        exclude: shell patterns of weights to leave dense.
        images: a batch [b, c, h, w]. If given, a forward pass checks that zeros in each weight are zeros in the
            computation; weights that fail stay dense (`altered_weights`).

    Returns:
        The maskable parameters by state-dict name, the weights left dense with their reasons, and the second
        names of tied weights.

    Raises:
        BaseError: for a pattern that matches no maskable weight; suggests the nearest names.
    """
    classifier = set() if mask_classifier else {id(p) for p in classifier_parameters(model).values()}
    weights: dict[str, nn.Parameter] = {}
    reasons: dict[str, str] = {}
    aliases: dict[str, str] = {}
    first_name: dict[int, str] = {}
    for name, module, attribute, weight in _candidates(model):
        first = first_name.setdefault(id(weight), name)
        if first == name:
            weights[name] = weight
        else:
            aliases[name] = first
        # A tied weight is masked in all its modules or in none.
        reason = _reason_to_leave_dense(module, attribute, weight, id(weight) in classifier)
        if reason:
            reasons.setdefault(first, reason)
    reasons |= _left_by_name({name for name in weights if name not in reasons}, aliases, reasons, include, exclude)
    if images is not None:
        reasons |= altered_weights(model, {n: w for n, w in weights.items() if n not in reasons}, images)
    return Maskable(weights, [], aliases).leave_dense(reasons)


def classifier_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the classifier or classifiers that timm's config or `get_classifier` names; may be empty."""
    modules: list[object] = []
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    for name in (named,) if isinstance(named, str) else named:
        with suppress(AttributeError):
            modules.append(model.get_submodule(name))
    if hasattr(model, "get_classifier"):
        found = model.get_classifier()  # pyright: ignore[reportCallIssue]
        modules += found if isinstance(found, (tuple, list)) else (found,)
    ids = {id(p) for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in ids}


def _left_by_name(
    free: set[str], aliases: dict[str, str], dense: dict[str, str], include: Sequence[str], exclude: Sequence[str]
) -> dict[str, str]:
    """Reasons from the user's own patterns, for the names that are `free` to be masked."""
    included = {name for pattern in include for name in _matches(pattern, "--include", free, aliases, dense)}
    excluded = {name for pattern in exclude for name in _matches(pattern, "--exclude", free, aliases, dense)}
    left = dict.fromkeys(free - included, "not included") if include else {}
    return {**left, **dict.fromkeys(excluded, "excluded")}


def _matches(pattern: str, flag: str, free: set[str], aliases: dict[str, str], dense: dict[str, str]) -> set[str]:
    names = {name: name for name in free} | {second: first for second, first in aliases.items() if first in free}
    found = matching(pattern, names)
    if not found:
        left = matching(pattern, dense)
        hint = f"{left[0]} is left dense anyway ({dense[left[0]]})" if left else nearest(pattern, names)
        raise BaseError(f"{flag} {pattern!r} matches no maskable weight: {hint}")
    return {names[name] for name in found}


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """All weights except vectors, in the order of the module tree, under each of their names."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, weight in module._parameters.items():
            if weight is not None and is_lazy(weight):
                raise BaseError(f"{prefix}.{attribute} has no shape yet: run a forward pass before masking")
            if weight is not None and (_is_weight(module, attribute) or weight.numel() > max((1, *weight.shape))):
                yield (f"{prefix}.{attribute}" if prefix else attribute), module, attribute, weight


def _is_weight(module: nn.Module, attribute: str) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return attribute in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return attribute == "weight" and isinstance(module, (_ConvNd, nn.Linear))


def _reason_to_leave_dense(module: nn.Module, attribute: str, weight: Tensor, is_classifier: bool) -> str | None:
    if not _is_weight(module, attribute):
        return f"{attribute} of {type(module).__name__}, not the weight of a conv or linear layer"
    if is_classifier:
        return "classifier"
    if isinstance(module, _WEIGHT_STANDARDIZED):
        return "weight-standardized: its zeros would not stay zero"
    return "empty" if weight.numel() == 0 else None
