"""Which channels of a network can only be removed together, as torch-pruning traces it."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from timm_jackpot.errors import BaseError, ConfigError, first_line

# Exact types: a subclass may read its weight in another way (weight-standardized convolutions do).
_PRODUCTS = (nn.Conv2d, Conv2dSame, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)
# Functions that keep channels apart, as autograd names them.
_CHANNELWISE = re.compile(
    r"(Relu|Hardtanh|LeakyRelu|Elu|Gelu|Silu|Mish|Hardswish|Sigmoid|Hardsigmoid|Tanh|Add|Mul|Div|NativeBatchNorm|"
    r"MaxPool2DWithIndices|AvgPool2D|AdaptiveAvgPool2D|MkldnnAdaptiveAvgPool2D|Mean|Clone|Addmm|Mm|T|Transpose|Permute|"
    r"Squeeze|Unsqueeze)Backward\d+"
)


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose channels can only be removed together."""

    root: str
    makers: dict[str, nn.Module]  # convolutions and linear layers that make the channels
    readers: dict[str, nn.Module]  # those that read them
    obstacle: str | None  # what they pass through that mixes or moves channels


@dataclass(frozen=True)
class Filters:
    """Weights that can lose whole filters, such that the network without them is a smaller one."""

    groups: tuple[tuple[str, ...], ...]  # those that lose the same filters, by name
    norms: Mapping[str, str]  # weight → the norm right after it, whose scale and shift a removed filter takes along
    inner: frozenset[str]  # weights whose outputs only depthwise layers of the same group take

    def affine(self, weight: str) -> tuple[str, ...]:
        """The names of that scale and shift."""
        norm = self.norms.get(weight)
        return () if norm is None else (f"{norm}.weight", f"{norm}.bias")


class ChannelGraph:
    """The groups of a network, whose parameters must require gradients.

    Args:
        images: [b, c, h, w]; the first is traced.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        from torch_pruning import DependencyGraph

        self._network = network
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch_pruning reports parameters that it does not know
            self._graph = DependencyGraph().build_dependency(network, example_inputs=images[:1])

    def groups(self) -> Iterator[ChannelGroup]:
        """In the order of the module tree, except the group of the logits. Channels may be removed on the way."""
        names = {module: name for name, module in self._network.named_modules()}
        seen: set[nn.Module] = set()
        for module in self._network.modules():
            if type(module) not in _PRODUCTS or module in seen or getattr(module, "groups", 1) > 1:
                continue
            if module not in self._graph.module2node:  # its weight is used without it, as in some attentions
                continue
            width = len(module.weight)  # pyright: ignore
            everything = list(range(width))
            makers, readers, obstacle, reordered = {}, {}, None, set[str]()
            for dependency, indices in self._graph.get_pruning_group(module, _remover(module), idxs=everything):
                layer = dependency.target.module
                if type(layer) in _PRODUCTS:
                    reads = dependency.handler.__name__ == "prune_in_channels"
                    (readers if reads else makers)[names[layer]] = layer
                reordered |= _reorders(dependency.target)
                if list(indices) != everything or len(reordered) > 1:
                    obstacle = obstacle or f"{_called(dependency.target, names)}, which moves channels"
                elif not _keeps_channels_apart(dependency.target, width):
                    obstacle = obstacle or _called(dependency.target, names)
            seen.update(makers.values())
            if (readers or obstacle) and width > 1:  # else these are the logits
                yield ChannelGroup(names[module], makers, readers, obstacle)

    def inner(self, group: ChannelGroup) -> set[str]:
        """The makers of a group whose outputs only depthwise layers of the group take."""
        joined = set(group.makers.values())
        return {name for name, maker in group.makers.items() if self._takers(maker) <= joined - {maker}}

    def _takers(self, layer: nn.Module) -> set[nn.Module]:
        """The next convolutions and linear layers that a layer's outputs come to."""
        takers, seen, todo = set(), set(), list(self._graph.module2node[layer].outputs)
        while todo:
            node = todo.pop()
            if type(node.module) in _PRODUCTS:
                takers.add(node.module)
            elif id(node) not in seen:
                seen.add(id(node))
                todo += node.outputs
        return takers

    def remove(self, group: ChannelGroup, channels: list[int]) -> None:
        """Remove channels from all layers of a group."""
        root = group.makers[group.root]
        self._graph.get_pruning_group(root, _remover(root), idxs=channels).prune()


def removable_filters(
    model: nn.Module, weights: Mapping[str, nn.Parameter], images: Tensor
) -> tuple[Filters, dict[str, str]]:
    """Which weights can lose whole filters.

    Args:
        weights: the candidates, by name.
        images: [b, c, h, w] of the model's input size.

    Returns:
        Their groups (of one weight, or several whose outputs are added, or that follow each other as a convolution and
        its depthwise one), and the reason for every other weight.

    Raises:
        BaseError: if torch_pruning cannot follow the model.
        ConfigError: if torch_pruning is not installed.
    """
    if find_spec("torch_pruning") is None:
        raise ConfigError("--allocation filters needs the package torch-pruning: pip install 'timm-jackpot[export]'")
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    try:
        graph = ChannelGraph(copied, images)
        found = list(graph.groups())
    except Exception as error:  # torch_pruning raises all kinds of errors
        raise BaseError(
            f"--allocation filters: torch-pruning cannot follow this network ({first_line(error)})"
        ) from error
    groups, inner, reasons = [], set[str](), {}
    for group in found:
        makers = tuple(f"{name}.weight" for name in group.makers)
        outside = next((name for name in makers if name not in weights), None)
        if group.obstacle is not None:
            reasons |= dict.fromkeys(makers, f"its outputs pass through {group.obstacle}")
        elif outside is not None:
            reasons |= dict.fromkeys(makers, f"its outputs are joined with those of {outside}, which stays dense")
        else:
            groups.append(makers)
            inner |= {f"{name}.weight" for name in graph.inner(group)}
    inside = {name for group in groups for name in group}
    norms = {name: norm for name, norm in _norms_after(copied, images).items() if name in inside}
    others = {name: reasons.get(name, "its outputs cannot be removed one by one") for name in weights}
    return Filters(tuple(groups), norms, frozenset(inner)), {
        name: reason for name, reason in others.items() if name not in inside
    }


@torch.no_grad()
def _norms_after(network: nn.Module, images: Tensor) -> dict[str, str]:
    """Weight of a layer → the norm that takes the layer's very output."""
    made: dict[int, tuple[str, Tensor]] = {}  # holds the outputs, whose ids would be given away otherwise
    found: dict[str, str] = {}
    handles = []
    for name, layer in network.named_modules():
        if type(layer) in _PRODUCTS:

            def remember(_: nn.Module, inputs: Any, output: Tensor, *, name: str = name) -> None:
                made[id(output)] = f"{name}.weight", output

            handles.append(layer.register_forward_hook(remember))
        elif type(layer) in _NORMS and layer.affine:  # pyright: ignore

            def look_up(_: nn.Module, inputs: Any, *, name: str = name) -> None:
                if id(inputs[0]) in made:
                    found[made[id(inputs[0])][0]] = name

            handles.append(layer.register_forward_pre_hook(look_up))
    network(images)
    for handle in handles:
        handle.remove()
    return found


def _remover(module: nn.Module) -> Any:
    import torch_pruning

    linear = isinstance(module, nn.Linear)
    return torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels


def _reorders(node: Any) -> set[str]:
    """Both together may shuffle channels, which torch_pruning does not see."""
    if type(node.module).__name__ == "_ReshapeOp":
        return {"reshape"}
    name = _function_name(getattr(node.module, "_grad_fn", None))
    return {"transpose"} if name.startswith(("Transpose", "Permute")) else set()


def _keeps_channels_apart(node: Any, width: int) -> bool:
    layer = node.module
    if type(layer) in _PRODUCTS:
        groups, (made, read) = getattr(layer, "groups", 1), layer.weight.shape[:2]
        return groups == made == width or (groups == 1 and width in (made, read))  # else it is broadcast
    if type(layer) in _NORMS:
        return layer.running_mean is not None
    if type(layer).__name__ == "_ReshapeOp":  # channels that keep their places, as before a head
        return True
    function = getattr(layer, "_grad_fn", None)
    return function is not None and _CHANNELWISE.fullmatch(_function_name(function)) is not None


def _function_name(function: object) -> str:
    return str(function).strip("<>").split(" ")[0].split("(")[0]


def _called(node: Any, names: dict[nn.Module, str]) -> str:
    if node.module in names:
        return f"{names[node.module]} ({type(node.module).__name__})"
    function = getattr(node.module, "_grad_fn", None)
    return type(node.module).__name__.strip("_") if function is None else _function_name(function)
