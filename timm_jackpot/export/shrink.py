"""Remove the channels that a mask made dead, exactly: the smaller network gives the same logits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from timm_jackpot.base import ChannelGraph, ChannelGroup
from timm_jackpot.errors import ConfigError, first_line

_SCALES = (1, 10, -10)  # of the images: a unit that is shut on some may open on others
_EXACT = 1e-5  # of the largest logit
_IMAGES = 16
# Kernels work on blocks of channels: with 13 channels fewer, ResNet-20 takes 1.2 times as long in onnxruntime.
WIDTHS = 8


@dataclass
class Shrinkage:
    """What was removed, and what is dead but had to stay."""

    removed: dict[str, int] = field(default_factory=dict)  # channels by the name of the layer that made them
    left: dict[str, str] = field(default_factory=dict)  # layer → why its dead channels stay

    @property
    def notes(self) -> dict[str, object]:
        """For export.json."""
        return {"removed_channels": self.removed, "dead_but_left": self.left}


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


def _shrink(network: nn.Module, images: Tensor, multiple: int) -> tuple[nn.Module, Shrinkage]:
    small, done = copy.deepcopy(network).eval().requires_grad_(True), Shrinkage()
    while True:
        graph = ChannelGraph(small, images)
        done.left, shrunk = {}, False
        for group in graph.groups():
            if group.obstacle is not None:
                if zeros := sum(int((~_makes(layer)).sum()) for layer in group.makers.values()):
                    done.left[group.root] = f"{zeros} filters of zeros: their outputs pass through {group.obstacle}"
            elif (dead := _dead(group, small, images, multiple)).channels:
                _fold(group, dead)
                graph.remove(group, dead.channels)
                done.removed[group.root] = done.removed.get(group.root, 0) + len(dead.channels)
                shrunk = True
        if not shrunk:
            return small.requires_grad_(False), done


def _dead(group: ChannelGroup, network: nn.Module, images: Tensor, multiple: int) -> _Dead:
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


def _fold(group: ChannelGroup, dead: _Dead) -> None:
    """Give the holder what the next layers read of the other constants."""
    if dead.holder is None:
        return
    for layer, shares in zip(group.readers.values(), dead.shares.T, strict=True):
        weight: Tensor = layer.weight  # pyright: ignore
        moved = weight[:, dead.channels].double().movedim(1, -1) @ shares
        weight[:, dead.holder] += moved.to(weight.dtype)
