"""Attach scores to a model's weights, and detach them without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrize

from timm_jackpot.adapter.score_mask import OnWeight, ScoreMask
from timm_jackpot.base import Filters
from timm_jackpot.errors import BaseError
from timm_jackpot.masks import MaskSet, thresholds_of_shards
from timm_jackpot.runtime.sharding import local

# Methods by which timm fuses several layers into one (RepVGG, MobileOne, LeViT …).
_FUSE_METHODS = ("fuse", "reparameterize", "switch_to_deploy")


class ScoreAdapter(Mapping[str, ScoreMask]):
    """The score masks of one model, by weight name. This is a view: the model owns the modules."""

    def __init__(self, layers: Mapping[str, ScoreMask]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, name: str) -> ScoreMask:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def refresh(self, kept: Mapping[str, int]) -> None:
        """Recompute every threshold so that `kept[name]` weights reach it."""
        scores = [layer.scores for layer in self.values()]
        thresholds: dict[str, Tensor] = {}
        if isinstance(scores[0], DTensor):
            shards, sizes = [local(one) for one in scores], [one.numel() for one in scores]
            found = thresholds_of_shards(shards, [kept[name] for name in self], sizes)
            thresholds = dict(zip(self, found, strict=True))
        for name, layer in self.items():
            layer.refresh(kept[name], thresholds.get(name))

    def score_sums(self) -> list[float]:
        """The sum of each layer's scores, in one transfer: shows NaN, and ranks whose scores differ."""
        scores = [layer.scores.detach() for layer in self.values()]
        sums = torch.stack([local(one).sum() for one in scores])
        if isinstance(scores[0], DTensor):
            torch.distributed.all_reduce(sums)
        return sums.tolist()

    def scores(self) -> list[nn.Parameter]:
        """The scores to train; those that layers share occur once."""
        return list({id(layer.scores): layer.scores for layer in self.values()}.values())

    def masks(self, kept: Mapping[str, int] | None = None) -> MaskSet:
        """The masks of the current scores, with exactly `kept[name]` weights each (default: as at the last refresh)."""
        return MaskSet({name: layer.mask(None if kept is None else kept[name]) for name, layer in self.items()})


def attach(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    kept: Mapping[str, int],
    *,
    n_of_m: tuple[int, int] | None = None,
    filters: Filters | None = None,
) -> ScoreAdapter:
    """Put one `ScoreMask` on each weight named in `scores`; the weights themselves are frozen.

    Args:
        model: any module; weights go by their state-dict names.
        scores: initial scores, in the shape of the weight.
        kept: how many weights each mask keeps.
        n_of_m: keep n of every m consecutive weights along dim 1; `kept` is that many, or more.
        filters: all weights, to keep whole filters of. The layers of a group share one score for each filter, the sum
            of its weights'. Where a norm follows, its scale and shift are masked instead of the weight: a norm undoes
            any scale of its input, so that the gradient of a filter as a whole would be zero. Where a depthwise layer
            of the group follows, only that one is masked: behind two zeros there would be no gradient either.

    Raises:
        BaseError: if a name is not a parameter of the model, a shape differs, a score is NaN, a mask is already
            attached, a tied weight is named twice, or a count is missing. Nothing is attached then.
    """
    owners = _owners(model)
    taken: dict[tuple[nn.Module, str], str] = {}
    for name, initial in scores.items():
        if name not in owners:
            if _is_parametrized(model, name):
                raise BaseError(f"{name} already has a parametrization: detach it first")
            raise BaseError(f"the model has no parameter {name!r} to mask")
        module, attribute = owners[name][0]
        weight = getattr(module, attribute)
        if weight.shape != initial.shape:
            raise BaseError(f"the scores of {name} have shape {tuple(initial.shape)}, expected {tuple(weight.shape)}")
        if not initial.is_meta and bool(initial.isnan().any()):
            raise BaseError(f"the scores of {name} contain NaN, which cannot be ranked: give finite scores")
        if name not in kept:
            raise BaseError(f"`kept` does not say how many weights of {name} to keep")
        if (module, attribute) in taken:
            raise BaseError(f"{name} and {taken[module, attribute]} are the same tied weight: give scores for only one")
        taken |= dict.fromkeys(owners[name], name)
    of_filters: dict[str, nn.Parameter] = {}
    for group in filters.groups if filters is not None else ():
        sums = torch.stack([scores[name].float().flatten(1).sum(1) for name in group]).sum(0)
        device = getattr(*owners[group[0]][0]).device
        of_filters |= dict.fromkeys(group, nn.Parameter(sums.to(device)))
    layers: dict[str, ScoreMask] = {}
    for name, initial in scores.items():
        module, attribute = owners[name][0]
        weight = getattr(module, attribute)
        weight.requires_grad_(False)
        layers[name] = ScoreMask(weight, of_filters.get(name, initial), kept[name], n_of_m)
    put_on(model, {place: layers[name] for name in layers for place in _places(name, filters)})
    return ScoreAdapter(layers)


def _places(name: str, filters: Filters | None) -> tuple[str, ...]:
    """The tensors to mask for a weight."""
    if filters is None:
        return (name,)
    return () if name in filters.inner else filters.affine(name) or (name,)


def put_on(model: nn.Module, layers: Mapping[str, OnWeight]) -> None:
    """Put a parametrization on each weight of a plain model that is named in `layers`; `detach` removes it."""
    owners = _owners(model)
    for name, layer in layers.items():
        # Tied weights: the same parametrization goes on every module that owns the parameter.
        for module, attribute in owners[name]:
            places = list(module._parameters)
            parametrize.register_parametrization(module, attribute, layer, unsafe=True)
            # Leaves an empty slot among the module's parameters, where `detach` puts the weight back.
            _reorder(module, dict.fromkeys(places) | module._parameters)
    for module in model.modules():
        for method in _FUSE_METHODS:
            if callable(getattr(type(module), method, None)):  # a method, not a layer of that name
                vars(module)[method] = partial(_refuse_to_fuse, type(module).__name__, method)


def detach(model: nn.Module) -> None:
    """Remove what `attach` or `put_on` put on the weights, which are plain again, in the same order."""
    for module in list(model.modules()):
        for method in _FUSE_METHODS:
            ours = vars(module).get(method)
            if isinstance(ours, partial) and ours.func is _refuse_to_fuse:
                del vars(module)[method]
        if not parametrize.is_parametrized(module):
            continue
        for attribute in list(module.parametrizations):  # pyright: ignore[reportArgumentType]
            if any(isinstance(p, OnWeight) for p in module.parametrizations[attribute]):  # pyright: ignore
                # torch deletes the property from the class, which deep copies of the module share: give it its own.
                shared = type(module)
                module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))  # pyright: ignore
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)


def adapter_of(model: nn.Module) -> ScoreAdapter:
    """The adapter of a model that has score masks, such as a deep copy or an EMA of an attached model.

    Raises:
        BaseError: if the model has none.
    """
    layers: dict[str, ScoreMask] = {}
    for prefix, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for attribute, chain in module.parametrizations.items():  # pyright: ignore
                found = next((p for p in chain if isinstance(p, ScoreMask)), None)
                if found is not None and all(found is not layer for layer in layers.values()):
                    layers[f"{prefix}.{attribute}" if prefix else attribute] = found
    if not layers:
        raise BaseError("the model has no score masks: attach them first")
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
    """Parameter name → every (module, attribute) that holds this parameter, starting with the named one."""
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
