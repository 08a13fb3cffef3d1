"""Copies of a model that share its tensors."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from timm_jackpot.base.load import Base
from timm_jackpot.base.tensors import state_ids
from timm_jackpot.errors import BaseMismatchError


def shared_copy(model: nn.Module, own: Iterable[Tensor] = ()) -> nn.Module:
    """Copy a model, sharing all parameters and buffers except `own`, which are copied."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for tensor in own:
        del tensors[id(tensor)]
    return copy.deepcopy(model, tensors)  # pyright: ignore[reportArgumentType]


def working_copy(model: nn.Module, *, own: Collection[str] = ()) -> nn.Module:
    """Copy a model to work on: it shares all parameters except those named in `own`; its buffers are copies."""
    changing = [parameter for name, parameter in model.named_parameters() if name in own]
    return shared_copy(model, own=(*changing, *model.buffers()))


def copy_with_head(model: nn.Module, num_classes: int, *, like: Tensor | None = None) -> nn.Module:
    """Copy a model, sharing all tensors except those of a new, frozen head initialized by `reset_classifier`.

    torch's random state does not change.

    Args:
        like: the new tensors get its device and, if they are floating-point, its dtype.

    Raises:
        BaseMismatchError: if the head of the model cannot be changed.
    """
    if not hasattr(model, "reset_classifier"):
        raise BaseMismatchError(
            f"the jackpot has a head with {num_classes} classes, but a {type(model).__name__} cannot change its head"
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
    """The base that `load_base` would give for another number of classes, sharing its tensors.

    Raises:
        BaseMismatchError: as `copy_with_head`.
    """
    model, old = copy_with_head(base.model, num_classes), base.model.state_dict(keep_vars=True)
    state = model.state_dict(keep_vars=True)
    new = {name: tensor for name, tensor in state.items() if tensor is not old.get(name)}
    # Reuse the identities from loading: the tensors may have a different device or dtype by now.
    ids = {name: identity for name, identity in base.tensors.items() if name in state and name not in new}
    adapted = {name for name, tensor in new.items() if name not in old or tensor.shape != old[name].shape}
    adapted |= set(base.adapted) & (state.keys() - new.keys())
    ref = base.ref.model_copy(update={"num_classes": num_classes})
    return Base(model, ref, {**ids, **state_ids(new)}, tuple(adapted))
