"""Layer-wise reconstruction: a mask with which each layer gives nearly the outputs of the dense network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from timm_jackpot.criteria._swaps import Moments, refine
from timm_jackpot.criteria.magnitude import magnitude
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch
from timm_jackpot.masks import keep_largest

_CHUNK = 16  # images whose patches are in memory at a time
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
            rows = refine(
                given["weight"].flatten(1).cpu().double(), mask.flatten(1).cpu(), moments, rescaled=self._rescaled
            )
            mask.copy_(rows.view(mask.shape))
        under_mask = func(**{**given, "input": masked, "weight": given["weight"] * mask})
        return torch.cat((outputs, under_mask))


def _batch_norm(given: dict[str, Any]) -> Tensor:
    """Running statistics in the dense network, and those of the batch in the masked one."""
    half = len(given["input"]) // 2
    anew = {"running_mean": None, "running_var": None, "training": True}
    dense = F.batch_norm(**{**given, "input": given["input"][:half]})
    return torch.cat((dense, F.batch_norm(**{**given, **anew, "input": given["input"][half:]})))


def _moments(
    func: Callable[..., Tensor], given: Mapping[str, Any], masked: Tensor, outputs: Tensor, *, centered: bool
) -> Moments:
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
        total, count = total + products.cpu().double(), count + inputs.shape[1]
        squares = squares + wanted.square().sum(1).cpu().double()
    mean, squares = total / count, squares / count  # [groups, d + 1, d + o / groups + 1], [groups, o / groups]
    d = mean.shape[1] - 1
    if centered:
        squares = squares - mean[:, d, d:-1].square()
        mean = mean - mean[:, :, -1:] * mean[:, -1:, :]
    return Moments(mean[:, :d, :d], mean[:, :d, d:-1].transpose(1, 2).flatten(0, 1), squares.flatten())


def _patches(x: Tensor, given: Mapping[str, Any]) -> Tensor:
    """What a convolution multiplies its weight with, [n, channels · window, positions]."""
    options = {key: given[key] for key in ("dilation", "padding", "stride") if key in given}
    return F.unfold(x, given["weight"].shape[2:], **options)


def _by_group(columns: Tensor, groups: int) -> Tensor:
    """[n, groups · d, positions] → [groups, n · positions, d]"""
    return columns.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
