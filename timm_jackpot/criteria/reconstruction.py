"""Layer-wise reconstruction: a mask with which each layer gives nearly the outputs of the dense network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from timm_jackpot.criteria.magnitude import magnitude
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch
from timm_jackpot.masks import keep_largest

_CHUNK = 16  # images whose patches are in memory at a time
_LEAST_GAIN = 1e-6  # of the loss at the start of a layer
_RIDGE = 1e-6  # of var(y), added to var(y'): no row gains by vanishing
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

    Let y = W x be a layer's outputs in the dense network, and y' = (m ⊙ W) x' those under the mask, where x' are the
    inputs that the masked layers before it give. With batch norm, whose statistics are re-estimated later, the mask
    should maximize Σ cov(y, y')² / var(y'), the variance of y that y' explains up to scale and shift in each channel;
    without, it should minimize Σ E(y − y')². A weight outside the mask is swapped for one inside it as long as this
    helps. Both sums take only the second moments of x', and their covariance with y.

    Swapping weights to restore a layer's outputs without training is the idea of Dynamic Sparse No Training; its rule
    looks at the mean and variance of the error, this one at the error itself. Linear layers and two-dimensional
    convolutions are refined where they use a weight as it is; elsewhere the magnitude mask stays.

    Args:
        model: in train or eval mode; it is not changed.
        weights: parameters of `model` by name.
        batches: only the first one is used, without labels; its images go through the network twice, as one batch.
        kept: the number of weights in each mask.
    """
    scores = magnitude(weights)
    network = copy.deepcopy(model).eval()
    parameters = dict(network.named_parameters(remove_duplicate=False))
    masks = {name: keep_largest(values, kept[name]) for name, values in scores.items()}
    rescaled = any(isinstance(module, _BatchNorm) and module.track_running_stats for module in network.modules())
    images = next(iter(batches)).images
    by_id = {id(parameters[name]): mask for name, mask in masks.items()}
    with torch.no_grad(), _Refiner(by_id, batch=2 * len(images), rescaled=rescaled):
        network(torch.cat((images, images)))
    return {name: _first(masks[name], values) for name, values in scores.items()}


def _first(mask: Tensor, values: Tensor) -> Tensor:
    """The same values, the largest ones inside the mask; the order inside it, and outside, stays."""
    ordered = values.flatten().sort(descending=True, stable=True)
    inside = mask.flatten()[ordered.indices]
    places = torch.cat((ordered.indices[inside], ordered.indices[~inside]))
    return torch.empty_like(ordered.values).index_copy_(0, places, ordered.values).view_as(values)


class _Refiner(TorchFunctionMode):
    """Runs a dense network on the first half of a batch and the masked one on the second, and refines masks on the way.

    Args:
        masks: by the id of the weight; they are changed in place.
        batch: images in the batch.
    """

    def __init__(self, masks: Mapping[int, Tensor], *, batch: int, rescaled: bool) -> None:
        super().__init__()
        self._masks, self._batch, self._rescaled, self._refined = masks, batch, rescaled, set[int]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _ARGUMENTS:
            return func(*args, **(kwargs or {}))
        given = dict(zip(_ARGUMENTS[func], args, strict=False)) | (kwargs or {})
        mask = self._masks.get(id(given["weight"]))
        if len(given["input"]) % self._batch == 0:  # not so for a table of positions, for one
            if func is F.batch_norm and given["running_mean"] is not None:
                return _batch_norm(given)
            if mask is not None and not isinstance(given.get("padding"), str):
                return self._product(func, given, mask)
        return func(*args, **(kwargs or {}))

    def _product(self, func: Callable[..., Tensor], given: dict[str, Any], mask: Tensor) -> Tensor:
        """A layer with a mask: both halves, the second one with the mask refined."""
        half = len(given["input"]) // 2
        dense, masked = given["input"][:half], given["input"][half:]
        outputs = func(**{**given, "input": dense})
        if id(given["weight"]) not in self._refined:
            self._refined.add(id(given["weight"]))
            moments = _moments(func, given, masked, outputs, centered=self._rescaled)
            weight = given["weight"].detach().flatten(1).double()
            rows = _Rows(weight, mask.flatten(1).clone(), moments, rescaled=self._rescaled)
            mask.copy_(_refine(rows).view(mask.shape))
        under_mask = func(**{**given, "input": masked, "weight": given["weight"] * mask})
        return torch.cat((outputs, under_mask))


def _batch_norm(given: dict[str, Any]) -> Tensor:
    """Running statistics in the dense network, and those of the batch in the masked one."""
    half = len(given["input"]) // 2
    anew = {"running_mean": None, "running_var": None, "training": True}
    dense = F.batch_norm(**{**given, "input": given["input"][:half]})
    return torch.cat((dense, F.batch_norm(**{**given, **anew, "input": given["input"][half:]})))


class _Moments(NamedTuple):
    """Second moments over images and positions, in float64."""

    inputs: Tensor  # of x', E x' x'ᵀ [groups, d, d]
    outputs: Tensor  # of y with x', E y x'ᵀ [o, d]; y without bias, which y' has too
    squares: Tensor  # of y, E y² [o]


def _moments(
    func: Callable[..., Tensor], given: Mapping[str, Any], masked: Tensor, outputs: Tensor, *, centered: bool
) -> _Moments:
    groups, bias = given.get("groups", 1), given.get("bias")
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for x, y in zip(masked.split(_CHUNK), outputs.split(_CHUNK), strict=True):
        if func is F.linear:
            inputs, wanted = x.flatten(0, -2)[None], (y if bias is None else y - bias).flatten(0, -2)[None]
        else:
            inputs = _by_group(_patches(x, given), groups)
            wanted = _by_group((y if bias is None else y - bias[:, None, None]).flatten(2), groups)
        one = torch.ones_like(inputs[..., :1])
        products = torch.cat((inputs, one), -1).transpose(1, 2) @ torch.cat((inputs, wanted, one), -1)
        total, count = total + products.double(), count + inputs.shape[1]
        squares = squares + wanted.square().sum(1).double()
    mean, squares = total / count, squares / count  # [groups, d + 1, d + o / groups + 1], [groups, o / groups]
    d = mean.shape[1] - 1
    if centered:
        squares = squares - mean[:, d, d:-1].square()
        mean = mean - mean[:, :, -1:] * mean[:, -1:, :]
    return _Moments(mean[:, :d, :d], mean[:, :d, d:-1].transpose(1, 2).flatten(0, 1), squares.flatten())


def _patches(x: Tensor, given: Mapping[str, Any]) -> Tensor:
    """What a convolution multiplies its weight with, [n, channels · window, positions]."""
    options = {key: given[key] for key in ("dilation", "padding", "stride") if key in given}
    return F.unfold(x, given["weight"].shape[2:], **options)


def _by_group(columns: Tensor, groups: int) -> Tensor:
    """[n, groups · d, positions] → [groups, n · positions, d]"""
    return columns.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


class _Rows:
    """The rows of a weight [o, d] under a mask, and how the loss of each would change with each of its weights.

    The loss of a row is E(y − y')² − E y², or if `rescaled`, −cov(y, y')² / var(y').
    """

    def __init__(self, weight: Tensor, mask: Tensor, moments: _Moments, *, rescaled: bool) -> None:
        self.weight, self.mask = weight, mask
        self._inputs, self._outputs, self._rescaled = moments.inputs, moments.outputs, rescaled
        self._ridge = (_RIDGE * moments.squares).clamp_min(torch.finfo(moments.squares.dtype).tiny)
        groups, d = moments.inputs.shape[:2]
        self._group = torch.arange(len(weight), device=weight.device) // (len(weight) // groups)
        self._diagonal = moments.inputs.diagonal(dim1=1, dim2=2)[self._group]
        kept = weight * mask
        self._products = (kept.view(groups, -1, d) @ moments.inputs).flatten(0, 1)  # (m ⊙ w)ᵀ E x' x'ᵀ
        self._with_dense = (kept * moments.outputs).sum(1)  # E y y'
        self._square = (kept * self._products).sum(1)  # E y'²
        self.changes = self._changes(torch.arange(len(weight), device=weight.device))

    def loss(self) -> Tensor:
        """[o]"""
        return self._loss(slice(None), self._with_dense[:, None], self._square[:, None])[:, 0]

    def toggle(self, rows: Tensor, columns: Tensor) -> None:
        """Remove or add one weight in each of some rows."""
        step = torch.where(self.mask[rows, columns], -1.0, 1.0) * self.weight[rows, columns]
        self._with_dense[rows] += step * self._outputs[rows, columns]
        self._square[rows] += 2 * step * self._products[rows, columns]
        self._square[rows] += step.square() * self._diagonal[rows, columns]
        self._products[rows] += step[:, None] * self._inputs[self._group[rows], columns]
        self.mask[rows, columns] = ~self.mask[rows, columns]
        self.changes[rows] = self._changes(rows)

    def _changes(self, rows: Tensor) -> Tensor:
        """How the loss of its row changes if a weight is removed, or added; [rows, d]."""
        step = torch.where(self.mask[rows], -1.0, 1.0) * self.weight[rows]
        with_dense, square = self._with_dense[rows, None], self._square[rows, None]
        after = self._loss(
            rows,
            with_dense + step * self._outputs[rows],
            square + 2 * step * self._products[rows] + step.square() * self._diagonal[rows],
        )
        return after - self._loss(rows, with_dense, square)

    def _loss(self, rows: Tensor | slice, with_dense: Tensor, square: Tensor) -> Tensor:
        if not self._rescaled:
            return square - 2 * with_dense
        return -with_dense.clamp_min(0).square() / (square.clamp_min(0) + self._ridge[rows, None])


def _refine(rows: _Rows) -> Tensor:
    """Swap weights inside the mask for others as long as the total loss falls; returns the mask.

    Rows do not affect each other, so that a round adds one weight in each of several rows, and then removes as many.
    """
    inf, least = torch.inf, _LEAST_GAIN * float(rows.loss().sum().abs())
    swaps = len(rows.weight)
    while swaps:
        adding, column = torch.where(rows.mask, inf, rows.changes).min(1)
        removing = torch.where(rows.mask, rows.changes, inf).amin(1)
        helpful = adding.sort().values + removing.sort().values < 0
        swaps = min(swaps, int(helpful.sum()))
        before = float(rows.loss().sum())
        added = adding.argsort()[:swaps]
        rows.toggle(added, column[added])
        removing, other = torch.where(rows.mask, rows.changes, inf).min(1)
        removed = removing.argsort()[:swaps]
        rows.toggle(removed, other[removed])
        if float(rows.loss().sum()) > before - least:
            rows.toggle(removed, other[removed])
            rows.toggle(added, column[added])
            swaps //= 2
    return rows.mask
