"""Put scores on a model's weights, and take them off again without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from timm_jackpot.adapter.score_mask import ScoreMask
from timm_jackpot.errors import BaseError
from timm_jackpot.masks import MaskSet

# What timm calls to make one layer of several (RepVGG, MobileOne, LeViT …).
_FUSE = ("fuse", "reparameterize", "switch_to_deploy")


class ScoreAdapter(Mapping[str, ScoreMask]):
    """All the score masks of one attached model, by weight name. A view: the model owns the modules."""

    def __init__(self, layers: Mapping[str, ScoreMask]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, name: str) -> ScoreMask:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def refresh(self, kept: Mapping[str, int]) -> None:
        """Recompute every threshold: `kept[name]` weights reach it."""
        for name, layer in self.items():
            layer.refresh(kept[name])

    def score_sums(self) -> list[float]:
        """Of each layer, in one read: no number where a score is none, another where a score is another."""
        return torch.stack([layer.scores.detach().sum() for layer in self.values()]).tolist()

    def scores(self) -> list[nn.Parameter]:
        return [layer.scores for layer in self.values()]

    def masks(self, kept: Mapping[str, int] | None = None) -> MaskSet:
        """The masks of the present scores, with exactly `kept[name]` weights each. Default: as at the last refresh."""
        return MaskSet({name: layer.mask(None if kept is None else kept[name]) for name, layer in self.items()})


def attach(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    kept: Mapping[str, int],
    *,
    n_of_m: tuple[int, int] | None = None,
) -> ScoreAdapter:
    """Put one `ScoreMask` on each weight named in `scores`; the weights themselves are frozen.

    Args:
        model: any module; weights are named as in its state dict.
        scores: initial score per weight, same shape.
        kept: number of weights that each mask keeps.
        n_of_m: keep n of every m consecutive weights along dim 1 of each layer; `kept` is that many, or more.

    Raises:
        BaseError: if a name is no parameter of the model, a shape differs, a score is NaN, a mask is already attached,
            a tied weight is named twice, or a count is missing; nothing is attached then.
    """
    owners = _owners(model)
    taken: dict[tuple[nn.Module, str], str] = {}
    for name, initial in scores.items():
        if name not in owners:
            if _is_parametrized(model, name):
                raise BaseError(f"{name} already carries a parametrization: detach it first")
            raise BaseError(f"the model has no parameter {name!r} to mask")
        module, attribute = owners[name][0]
        weight = getattr(module, attribute)
        if weight.shape != initial.shape:
            raise BaseError(f"scores of {name} have shape {tuple(initial.shape)}, expected {tuple(weight.shape)}")
        if not initial.is_meta and bool(initial.isnan().any()):
            raise BaseError(f"scores of {name} hold NaN, which no count of kept weights can rank: give numbers")
        if name not in kept:
            raise BaseError(f"no count says how many weights of {name} to keep")
        if (module, attribute) in taken:
            raise BaseError(f"{name} and {taken[module, attribute]} are one tied weight: give scores for one of them")
        taken |= dict.fromkeys(owners[name], name)
    layers: dict[str, ScoreMask] = {}
    for name, initial in scores.items():
        module, attribute = owners[name][0]
        weight = getattr(module, attribute)
        weight.requires_grad_(False)
        layers[name] = ScoreMask(weight, initial, kept[name], n_of_m)
        # Tied weights: one ScoreMask on every module that owns the same parameter.
        for module, attribute in owners[name]:
            places = list(module._parameters)
            parametrize.register_parametrization(module, attribute, layers[name], unsafe=True)
            # An empty place among the module's parameters, where `detach` puts the weight back.
            _reorder(module, dict.fromkeys(places) | module._parameters)
    for module in model.modules():
        for method in _FUSE:
            if callable(getattr(type(module), method, None)):  # a method, not a layer of that name
                vars(module)[method] = partial(_refuse_to_fuse, type(module).__name__, method)
    return ScoreAdapter(layers)


def detach(model: nn.Module) -> None:
    """Remove every `ScoreMask`: weights are again what they were before `attach`, bit for bit and place by place."""
    for module in list(model.modules()):
        for method in _FUSE:
            ours = vars(module).get(method)
            if isinstance(ours, partial) and ours.func is _refuse_to_fuse:
                del vars(module)[method]
        if not parametrize.is_parametrized(module):
            continue
        for attribute in list(module.parametrizations):  # pyright: ignore[reportArgumentType]
            if any(isinstance(p, ScoreMask) for p in module.parametrizations[attribute]):  # pyright: ignore
                # torch takes the property off the class, which deep copies of the module share: off a class of our own.
                shared = type(module)
                module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))  # pyright: ignore
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)


def adapter_of(model: nn.Module) -> ScoreAdapter:
    """The adapter of a model that carries score masks: of a deep copy, or of the EMA of an attached one.

    Raises:
        BaseError: if the model carries none.
    """
    layers: dict[str, ScoreMask] = {}
    for prefix, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for attribute, chain in module.parametrizations.items():  # pyright: ignore
                found = next((p for p in chain if isinstance(p, ScoreMask)), None)
                if found is not None and all(found is not layer for layer in layers.values()):
                    layers[f"{prefix}.{attribute}" if prefix else attribute] = found
    if not layers:
        raise BaseError("the model carries no score masks: attach them first")
    return ScoreAdapter(layers)


def _refuse_to_fuse(owner: str, method: str, *_: object, **__: object) -> None:
    raise BaseError(f"{owner}.{method}() would sum masked branches and lose their zeros: detach the masks first")


def _reorder(module: nn.Module, parameters: Mapping[str, nn.Parameter | None]) -> None:
    ordered = dict(parameters)
    module._parameters.clear()
    module._parameters.update(ordered)


def _is_parametrized(model: nn.Module, name: str) -> bool:
    prefix, _, attribute = name.rpartition(".")
    try:
        return parametrize.is_parametrized(model.get_submodule(prefix), attribute)
    except AttributeError:
        return False


def _owners(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Parameter name → every (module, attribute) that holds the same parameter, the name's own first."""
    by_id: dict[int, list[tuple[nn.Module, str]]] = {}
    names: dict[str, tuple[nn.Module, str, int]] = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                by_id.setdefault(id(parameter), []).append((module, attribute))
                names[f"{prefix}.{attribute}" if prefix else attribute] = (module, attribute, id(parameter))
    return {
        name: [(module, attribute)] + [o for o in by_id[key] if o != (module, attribute)]
        for name, (module, attribute, key) in names.items()
    }
