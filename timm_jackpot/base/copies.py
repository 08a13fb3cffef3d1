"""Copies of a model that share its memory."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from timm_jackpot.base.load import Base
from timm_jackpot.base.tensors import state_ids
from timm_jackpot.errors import BaseMismatchError


def shared_copy(model: nn.Module, own: Iterable[Tensor] = ()) -> nn.Module:
    """A copy whose parameters and buffers are those of `model`, the same objects, but for copies of `own`."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for tensor in own:
        del tensors[id(tensor)]
    return copy.deepcopy(model, tensors)  # pyright: ignore[reportArgumentType]


def working_copy(model: nn.Module, *, own: Collection[str] = ()) -> nn.Module:
    """A copy to work on: it shares the parameters, but for those named in `own`, and owns its buffers."""
    changing = [parameter for name, parameter in model.named_parameters() if name in own]
    return shared_copy(model, own=(*changing, *model.buffers()))


def copy_with_head(model: nn.Module, num_classes: int, *, like: Tensor | None = None) -> nn.Module:
    """A copy that shares all tensors but its head's, which are new and frozen, as `reset_classifier` draws them.

    torch's random state is left as it is.

    Args:
        like: the new tensors go to the device of this one, and to its dtype where they are floats.

    Raises:
        BaseMismatchError: if the model has no way to change its head.
    """
    if not hasattr(model, "reset_classifier"):
        raise BaseMismatchError(
            f"the jackpot has a head of {num_classes} classes, and a {type(model).__name__} cannot change its head"
        )
    copied = shared_copy(model)
    shared = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    with torch.random.fork_rng(devices=[]):
        copied.reset_classifier(num_classes)  # pyright: ignore[reportCallIssue]
    for tensor in (*copied.parameters(), *copied.buffers()):
        if id(tensor) not in shared:
            tensor.requires_grad_(False)
            if like is not None:
                tensor.data = tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
    return copied.train(model.training)


def with_head(base: Base, num_classes: int) -> Base:
    """A base as `load_base` gives it for other classes, on the same tensors.

    Raises:
        BaseMismatchError: as `copy_with_head`.
    """
    model, mine = copy_with_head(base.model, num_classes), base.model.state_dict(keep_vars=True)
    state = model.state_dict(keep_vars=True)
    new = {name: tensor for name, tensor in state.items() if tensor is not mine.get(name)}
    # Of the tensors as they were loaded: they may have moved to another device or dtype since.
    ids = {name: identity for name, identity in base.tensors.items() if name in state and name not in new}
    adapted = {name for name, tensor in new.items() if name not in mine or tensor.shape != mine[name].shape}
    adapted |= set(base.adapted) & (state.keys() - new.keys())
    ref = base.ref.model_copy(update={"num_classes": num_classes})
    return Base(model, ref, {**ids, **state_ids(new)}, tuple(adapted))
