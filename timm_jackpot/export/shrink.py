"""Remove the channels that a mask made dead, exactly: the smaller network gives the same logits."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from timm_jackpot.errors import ConfigError

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph

# Exact types: a subclass may read its weight in another way (weight-standardized convolutions do).
_PRODUCTS = (nn.Conv2d, Conv2dSame, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)
# Functions that keep channels apart, as autograd names them.
_CHANNELWISE = re.compile(
    r"(Relu|Hardtanh|LeakyRelu|Elu|Gelu|Silu|Mish|Hardswish|Sigmoid|Hardsigmoid|Tanh|Add|Mul|Div|NativeBatchNorm|"
    r"MaxPool2DWithIndices|AvgPool2D|AdaptiveAvgPool2D|MkldnnAdaptiveAvgPool2D|Mean|Clone|Addmm|Mm|T|Transpose|Permute|"
    r"Squeeze|Unsqueeze)Backward\d+"
)
_SCALES = (1, 10, -10)  # of the images: a unit that is shut on some may open on others
_EXACT = 1e-5  # of the largest logit
_IMAGES = 16


@dataclass
class Shrinkage:
    """What was removed, and what is dead but had to stay."""

    removed: dict[str, int] = field(default_factory=dict)  # channels by the name of the layer that made them
    left: dict[str, str] = field(default_factory=dict)  # layer → why its dead channels stay


@dataclass(frozen=True)
class _Group:
    """Layers whose channels can only be removed together."""

    root: str
    makers: dict[str, nn.Module]  # convolutions and linear layers that make the channels
    readers: dict[str, nn.Module]  # those that read them
    obstacle: str | None  # what they pass through that mixes or moves channels


@dataclass(frozen=True)
class _Dead:
    """Channels that can go. Constants that are not zero go into the `holder`, a channel that stays."""

    channels: list[int]
    holder: int | None
    shares: Tensor  # [channels, readers]: their values over the holder's


def shrink(network: nn.Module, images: Tensor, *, multiple: int = 1) -> tuple[nn.Module, Shrinkage]:
    """A copy of a network in eval mode without its dead channels.

    A channel is dead if no layer reads it, or if every layer that makes it has only zeros for it and it is therefore
    constant. Constants other than zero add up to one channel, which stays: the next layer's weights for the others are
    added to its own, in proportion, so that nothing changes at padded borders either. Rounds repeat, as layers that
    lose their inputs become dead in turn.

    Channels stay, and are named with the reason, where they pass through anything but convolutions, linear layers,
    batch norms and functions of single channels: a layer norm or a softmax sees all channels at once.

    Args:
        images: [b, c, h, w]; these, and their multiples, are used to detect constant channels.
        multiple: of what widths stay: as many dead channels are kept as that takes.

    Raises:
        ConfigError: if torch_pruning, which says which channels go together, cannot follow the network.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():  # in inference mode nothing could be traced
            probes = torch.cat([images[:_IMAGES].clone() * scale for scale in _SCALES])
            small, done = _shrink(network, probes, multiple)
            wanted, found = network(probes), small(probes)
        wrong = not bool((found - wanted).abs().max() <= _EXACT * wanted.abs().max())
    except Exception as error:  # torch_pruning, and the network it leaves, raise all kinds of errors
        raise ConfigError(f"dead channels of this network cannot be removed: {first_line(error)}") from error
    if wrong:
        raise ConfigError("dead channels of this network cannot be removed: torch-pruning does not see what reads them")
    return small, done


def first_line(error: Exception) -> str:
    """What a library's error says, short enough to be quoted."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _shrink(network: nn.Module, images: Tensor, multiple: int) -> tuple[nn.Module, Shrinkage]:
    from torch_pruning import DependencyGraph

    small, done = copy.deepcopy(network).eval().requires_grad_(True), Shrinkage()
    while True:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch_pruning reports parameters that it does not know
            graph = DependencyGraph().build_dependency(small, example_inputs=images[:1])
        done.left, shrunk = {}, False
        for group in _groups(graph, small):
            if group.obstacle is not None:
                if zeros := sum(int((~_makes(layer)).sum()) for layer in group.makers.values()):
                    done.left[group.root] = f"{zeros} filters of zeros: their outputs pass through {group.obstacle}"
            elif (dead := _dead(group, small, images, multiple)).channels:
                _remove(graph, group, dead)
                done.removed[group.root] = done.removed.get(group.root, 0) + len(dead.channels)
                shrunk = True
        if not shrunk:
            return small.requires_grad_(False), done


def _groups(graph: DependencyGraph, network: nn.Module) -> Iterator[_Group]:
    names = {module: name for name, module in network.named_modules()}
    seen: set[nn.Module] = set()
    for module in network.modules():
        if type(module) not in _PRODUCTS or module in seen or getattr(module, "groups", 1) > 1:
            continue
        if module not in graph.module2node:  # its weight is used without it, as in some attentions
            continue
        width = len(module.weight)  # pyright: ignore
        everything = list(range(width))
        makers, readers, obstacle, reordered = {}, {}, None, set[str]()
        for dependency, indices in graph.get_pruning_group(module, _remover(module), idxs=everything):
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
            yield _Group(names[module], makers, readers, obstacle)


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


def _dead(group: _Group, network: nn.Module, images: Tensor, multiple: int) -> _Dead:
    width = len(group.makers[group.root].weight)  # pyright: ignore
    read = torch.stack([_reads(layer) for layer in group.readers.values()]).any(0)
    plain = [layer for layer in group.makers.values() if getattr(layer, "groups", 1) == 1]
    silent = ~torch.stack([_makes(layer) for layer in plain]).any(0)
    unread = (~read).nonzero().flatten().tolist()
    constants: dict[int, list[float]] = {}
    if bool((silent & read).any()):
        ranges = _ranges(group.readers, network, images)
        constant = silent & read & torch.stack([low == high for low, high in ranges]).all(0)
        constants = {i: [float(low[i]) for low, _ in ranges] for i in constant.nonzero().flatten().tolist()}
    zero = [i for i, values in constants.items() if not any(values)]
    moved = {i: values for i, values in constants.items() if any(values)}
    holder = max(moved, key=lambda i: min(map(abs, moved[i])), default=None)
    if holder is not None and not all(moved[holder]):
        moved, holder = {}, None  # zero at one reader, where others may not be
    channels = [*unread, *zero, *(i for i in moved if i != holder)]
    rest = max(multiple, -(-(width - len(channels)) // multiple) * multiple)
    channels = channels[: max(0, width - rest)]
    values = [constants.get(i, [0.0] * len(group.readers)) for i in channels]
    shares = torch.tensor(values, dtype=torch.float64).view(len(channels), len(group.readers))
    if holder is not None:
        shares = shares / torch.tensor(moved[holder], dtype=torch.float64)
    return _Dead(channels, holder, shares)


def _makes(layer: nn.Module) -> Tensor:
    """Which of its output channels a layer has weights for."""
    weight: Tensor = layer.weight  # pyright: ignore
    return weight.flatten(1).ne(0).any(1)


def _reads(layer: nn.Module) -> Tensor:
    """Which input channels a layer has weights for."""
    weight: Tensor = layer.weight  # pyright: ignore
    return weight.transpose(0, 1).flatten(1).ne(0).any(1)


def _ranges(readers: dict[str, nn.Module], network: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The least and the largest value of each channel at each reader."""
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def watch(layer: nn.Module, inputs: Sequence[Tensor]) -> None:
        channels = inputs[0].movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
        found[layer] = channels.amin(1), channels.amax(1)

    handles = [layer.register_forward_pre_hook(watch) for layer in readers.values()]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [found[layer] for layer in readers.values()]


def _remove(graph: DependencyGraph, group: _Group, dead: _Dead) -> None:
    if dead.holder is not None:
        for layer, shares in zip(group.readers.values(), dead.shares.T, strict=True):
            weight: Tensor = layer.weight  # pyright: ignore
            moved = weight[:, dead.channels].double().movedim(1, -1) @ shares
            weight[:, dead.holder] += moved.to(weight.dtype)
    root = group.makers[group.root]
    graph.get_pruning_group(root, _remover(root), idxs=dead.channels).prune()
