"""Layer-wise reconstruction: a mask with which each layer gives nearly the outputs of the dense network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from timm_jackpot.criteria._swaps import Moments, refine
from timm_jackpot.criteria.magnitude import magnitude
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import keep_largest

_ELEMENTS = 2**24  # of a layer's inputs, as patches, in memory at a time
_WIDEST = 8192  # inputs of an output: moments of more would take gigabytes
_ARGUMENTS = {
    F.linear: ("input", "weight", "bias"),
    F.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}


@register_criterion("reconstruction", paper="after Zhang et al. 2024, arXiv:2310.08915")
def reconstruction(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Batch], kept: Mapping[str, int]
) -> dict[str, Tensor]:
    """|w| in another order: a layer's largest values go to a mask that swaps have improved, from the magnitude mask on.

    Let y = W x be a layer's outputs in the dense network, and y' = (m ⊙ W) x' those under its mask, where x' are the
    inputs that the masked layers before it give. If batch norm follows, whose statistics are re-estimated later, the
    mask should maximize Σ cov(y, y')² / var(y'), the variance of y that y' explains up to scale and shift in each
    channel; else it should minimize Σ E(y − y')². Weights are added to the mask and others removed, as many, until that
    no longer helps. Both sums take only the second moments of x' and y.

    Swapping weights to restore a layer's outputs without training is the idea of Dynamic Sparse No Training; its rule
    looks at the mean and variance of the error, this one at the error itself. Linear layers and two-dimensional
    convolutions are refined, at their first use, if they use a weight as it is and an output has at most 8,192 inputs;
    elsewhere the magnitude mask stays, and x' is as without it.

    Args:
        model: in train or eval mode, with images along the first dimension throughout; it is not changed.
        weights: parameters of `model` by name.
        batches: only the first one is used, without labels; its images go through the network twice, as one batch.
        kept: the number of weights in each mask.

    Raises:
        ConfigError: if there is only one image.
    """
    images = next(iter(batches)).images
    if len(images) < 2:
        raise ConfigError("reconstruction compares outputs over images, and needs at least two training images")
    scores = magnitude(weights)
    masks = {name: keep_largest(values, kept[name]) for name, values in scores.items()}
    network = copy.deepcopy(model).eval()
    parameters = dict(network.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        with _NormFinder() as finder:
            network(images[:2])
        by_id = {id(parameters[name]): mask for name, mask in masks.items()}
        with _Refiner(by_id, finder.normalized, batch=2 * len(images)):
            network(torch.cat((images, images)))
    return {name: _first(masks[name], values) for name, values in scores.items()}


def _first(mask: Tensor, values: Tensor) -> Tensor:
    """The same values, the largest ones inside the mask; the order inside it, and outside, stays."""
    ordered, indices = values.flatten().sort(descending=True, stable=True)
    inside = mask.flatten()[indices]
    places = torch.cat((indices[inside], indices[~inside]))
    kept = int(inside.sum())
    if 0 < kept < len(ordered) and ordered[kept - 1] == ordered[kept]:  # a tie, which the mask must win
        tied = ordered[:kept] == ordered[kept]
        ordered[:kept][tied] = torch.nextafter(ordered[kept], ordered.new_tensor(torch.inf)).clamp_min(1e-30)
    return torch.empty_like(ordered).index_copy_(0, places, ordered).view_as(values)


class _NormFinder(TorchFunctionMode):
    """Finds the weights whose product goes straight into a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.normalized: set[int] = set()  # ids of weights
        self._products: dict[int, tuple[Tensor, int]] = {}  # by id; the tensors stay alive, so that no id is used again

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ARGUMENTS:
            given = _bound(func, args, kwargs)
            if func is not F.batch_norm:
                self._products[id(result)] = (result, id(given["weight"]))
            elif id(given["input"]) in self._products:
                self.normalized.add(self._products[id(given["input"])][1])
        return result


class _Refiner(TorchFunctionMode):
    """Runs a dense network on the first half of a batch and the masked one on the second, and refines masks on the way.

    Args:
        masks: by the id of the weight; they are changed in place.
        normalized: ids of the weights that a batch norm follows.
        batch: images in the batch.
    """

    def __init__(self, masks: Mapping[int, Tensor], normalized: set[int], *, batch: int) -> None:
        super().__init__()
        self._masks, self._normalized, self._batch, self._refined = masks, normalized, batch, set[int]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _ARGUMENTS:
            return func(*args, **(kwargs or {}))
        given = _bound(func, args, kwargs)
        least = 4 if func is F.conv2d else 2  # dimensions of a batch
        if given["input"].dim() >= least and len(given["input"]) % self._batch == 0:  # a table of positions has none
            if func is F.batch_norm:
                return _batch_norm(given)
            if id(given["weight"]) in self._masks and _can_refine(given):
                return self._product(func, given)
        return func(*args, **(kwargs or {}))

    def _product(self, func: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        """A layer with a mask: both halves, the second one with the mask refined."""
        weight, mask = given["weight"], self._masks[id(given["weight"])]
        dense, masked = given["input"].chunk(2)
        outputs = func(**{**given, "input": dense})
        if id(weight) not in self._refined:
            self._refined.add(id(weight))
            rescaled = id(weight) in self._normalized
            moments = _moments(given, masked, outputs, centered=rescaled)
            rows = refine(weight.flatten(1).cpu().double(), mask.flatten(1).cpu(), moments, rescaled=rescaled)
            mask.copy_(rows.view(mask.shape))
        return torch.cat((outputs, func(**{**given, "input": masked, "weight": weight * mask})))


def _bound(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(zip(_ARGUMENTS[func], args, strict=False)) | dict(kwargs or {})


def _can_refine(given: Mapping[str, Any]) -> bool:
    return given["weight"][0].numel() <= _WIDEST and not isinstance(given.get("padding"), str)


def _batch_norm(given: dict[str, Any]) -> Tensor:
    """As asked for in the dense network, and with the statistics of the batch in the masked one."""
    dense, masked = given["input"].chunk(2)
    anew = {"running_mean": None, "running_var": None, "training": True}
    return torch.cat((F.batch_norm(**{**given, "input": dense}), F.batch_norm(**{**given, **anew, "input": masked})))


def _moments(given: Mapping[str, Any], masked: Tensor, outputs: Tensor, *, centered: bool) -> Moments:
    weight, groups, bias = given["weight"], given.get("groups", 1), given.get("bias")
    patches = groups * weight[0].numel() * outputs[0].numel() // len(weight)
    size = max(1, _ELEMENTS // patches)
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for x, y in zip(masked.split(size), outputs.split(size), strict=True):
        if weight.dim() == 2:
            inputs, wanted = x.flatten(0, -2)[None], (y if bias is None else y - bias).flatten(0, -2)[None]
        else:
            options = {key: given[key] for key in ("dilation", "padding", "stride") if key in given}
            inputs = _by_group(F.unfold(x, weight.shape[2:], **options), groups)
            wanted = _by_group((y if bias is None else y - bias[:, None, None]).flatten(2), groups)
        one = torch.ones_like(inputs[..., :1])
        products = torch.cat((inputs, one), -1).transpose(1, 2) @ torch.cat((inputs, wanted, one), -1)
        total, count = total + products.cpu().double(), count + inputs.shape[1]
        squares = squares + wanted.square().sum(1).flatten().cpu().double()
    mean = total / count  # [groups, d + 1, d + o / groups + 1]
    if centered:
        mean = mean - mean[:, :, -1:] * mean[:, -1:, :]
    d = mean.shape[1] - 1
    return Moments(mean[:, :d, :d], mean[:, :d, d:-1].transpose(1, 2).flatten(0, 1), squares / count)


def _by_group(columns: Tensor, groups: int) -> Tensor:
    """[n, groups · d, positions] → [groups, n · positions, d]"""
    return columns.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
