"""Trace how a forward pass uses each weight: are its zeros zeros in the computation?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from timm_jackpot.errors import BaseError

# Products with the weight as one factor: a zero contributes nothing.
_PRODUCTS = {
    *(F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__),
    *(torch.mm, Tensor.mm, torch.bmm, Tensor.bmm, torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm),
    *(torch.einsum, torch.tensordot, F.multi_head_attention_forward, torch.linalg.multi_dot),
    *(torch.mv, Tensor.mv, torch.addmv, torch.inner, Tensor.inner, torch.dot, Tensor.dot),
    *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
}
# Functions that move, cast or scale elements: zeros stay zeros.
_KEEPS_ZEROS = {
    *("to", "type", "type_as", "float", "half", "bfloat16", "double", "cpu", "cuda"),
    *("contiguous", "clone", "detach", "data"),
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("expand", "expand_as", "repeat", "roll", "flip"),
    *("transpose", "permute", "t", "T", "mT", "swapaxes", "swapdims", "movedim"),
    *("chunk", "split", "unbind", "narrow", "select", "getitem", "cat", "concat", "stack"),
    *("mul", "multiply", "rmul", "div", "divide", "true_divide", "truediv", "neg"),
}

# Functions that only use the dtype, device or shape of a weight, and functions that only use the first argument.
_ONLY_SHAPE = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
_ONLY_FIRST = {"to", "type_as", "view_as", "reshape_as", "expand_as"}
_DIVISIONS = {"div", "divide", "true_divide", "truediv"}


def altered_weights(model: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> dict[str, str]:
    """Weights whose zeros would not stay zero in the forward pass, with the reason for each.

    One forward pass in eval mode follows every weight to the product that uses it. On the way, the weight may be moved,
    cast, sliced or scaled; any other function (weight standardization, a softmax, the sum with another branch) is a
    reason. So is a weight that no product seems to use: the layer may read it in another way, such as a custom kernel.

    Args:
        weights: parameters of `model` by name.
        images: a batch [b, c, h, w] that the model accepts.

    Raises:
        BaseError: if the model cannot run on `images`.
    """
    # On a copy: a forward pass may count, cache, or change its own weights.
    copied = copy.deepcopy(model).eval()
    parameters = dict(copied.named_parameters(remove_duplicate=False))
    follower = _Follower({name: parameters[name] for name in weights})
    first = next(iter(parameters.values()), images)
    try:
        with torch.no_grad(), follower:
            copied(images.to(first.device, first.dtype))
    except Exception as error:  # any model, any error
        raise BaseError(
            f"{type(model).__name__} cannot run on images of shape {tuple(images.shape)}: {str(error)[:200]}"
        ) from error
    unseen = dict.fromkeys(weights.keys() - follower.used, "no product in the forward pass uses it visibly")
    altered = {
        name: f"altered by {function} before it is used: its zeros would not stay zero"
        for name, function in follower.altered.items()
    }
    return {**unseen, **altered}


class _Follower(TorchFunctionMode):
    """Watches every torch function whose arguments include a weight or something made from one."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Keep the tensors alive, so that their ids are not reused.
        self._origin: dict[int, tuple[Tensor, frozenset[str]]] = {}
        for name, weight in weights.items():
            self._follow(weight, frozenset({name}) | self._names(weight))
        self.used: set[str] = set()
        self.altered: dict[str, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = _short_name(func)
        if name.startswith(_ONLY_SHAPE):
            return result
        if name in _ONLY_FIRST:
            args = args[:1]
        arguments = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        names = frozenset().union(*map(self._names, arguments))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name in _DIVISIONS and len(args) > 1 and isinstance(args[1], Tensor) and self._names(args[1]):
            self.altered |= dict.fromkeys(self._names(args[1]), "division by it")
        if result is None and args and isinstance(args[0], Tensor):  # written in place, such as w[i] = x
            self.altered |= dict.fromkeys(self._names(args[0]), name)
        if not names or not outputs:  # only a shape or dtype was read
            return result
        if func in _PRODUCTS:
            self.used |= names
        elif name in _KEEPS_ZEROS:
            for output in outputs:
                self._follow(output, names)
        else:
            self.altered |= dict.fromkeys(names, name)
        return result

    def _names(self, tensor: Tensor) -> frozenset[str]:
        return self._origin[id(tensor)][1] if id(tensor) in self._origin else frozenset()

    def _follow(self, tensor: Tensor, names: frozenset[str]) -> None:
        self._origin[id(tensor)] = (tensor, names)


def _short_name(func: Callable[..., Any]) -> str:
    """`torch.Tensor.__getitem__` → getitem; a property's getter → the property."""
    parts = [part for part in (resolve_name(func) or getattr(func, "__name__", str(func))).split(".") if part]
    name = parts[-2] if parts[-1] == "__get__" and len(parts) > 1 else parts[-1]
    return name.strip("_")
