"""Build timm models by name: without weights, or with random ones."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models import is_model
from torch import Tensor, nn

from timm_jackpot.base.ref import BaseRef, Scalar
from timm_jackpot.base.skip_init import SkipInit
from timm_jackpot.base.tensors import norm_affine
from timm_jackpot.errors import BaseError

_MAX_GROWTH, _ALWAYS_ALLOWED = 4, 64 * 2**20  # size limits for models built from untrusted arguments: factor, bytes


def build_skeleton(name: str, model_kwargs: Mapping[str, Scalar], **changes: int | None) -> nn.Module:
    """Build a registered model on the meta device: names and shapes of its tensors, without using memory.

    Args:
        changes: num_classes, in_chans, img_size.

    Raises:
        BaseError: if it cannot be built, or the changes make it many times larger.
    """
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    arguments: dict[str, Any] = dict(model_kwargs)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), SkipInit():
            model = create_timm_model(name, dict(requested), pretrained=False, **arguments)
            size = _bytes(model)
            if size <= _ALWAYS_ALLOWED or set(requested) <= {"num_classes"}:  # the number of classes has its own limit
                return model
            usual = _bytes(timm.create_model(name, pretrained=False, **arguments))
    except Exception as error:  # untrusted arguments: a constructor may raise anything
        raise BaseError(f"{name} cannot be built with {arguments}: {repr(error)[:200]}") from error
    if size > _MAX_GROWTH * usual + _ALWAYS_ALLOWED:
        raise BaseError(f"{name} with {requested} would take {size} bytes, far more than the usual {usual}")
    return model


def save_random_weights(name: str, path: Path, model_kwargs: Mapping[str, Scalar], **changes: int | None) -> None:
    """Write a checkpoint with the random initial weights of an architecture, drawn from torch's global generator.

    It is for searches, so that it has no closed branches (`open_branches`).

    Args:
        changes: num_classes, in_chans, img_size.

    Raises:
        BaseError: if timm does not know the architecture, or the file cannot be written.
    """
    if not is_model(name):
        raise BaseError(f"unknown architecture {name!r}{did_you_mean(name)}")
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    try:
        model = create_timm_model(name, requested, pretrained=False, **dict(model_kwargs))
        open_branches(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A clone of each: safetensors refuses the tensors of modules that have two names.
        save_file({n: t.clone(memory_format=torch.contiguous_format) for n, t in model.state_dict().items()}, path)
    except TypeError as error:
        raise BaseError(f"{name} does not take these arguments: {error}") from error
    except (OSError, SafetensorError) as error:
        raise BaseError(f"{path} could not be written: {error}") from error


def random_weights(ref: BaseRef) -> dict[str, Tensor]:
    """A state dict of `random_network`."""
    return random_network(ref).state_dict()


def random_network(ref: BaseRef, **changes: Scalar) -> nn.Module:
    """The architecture of a base, with initial weights drawn from torch's global generator.

    Args:
        changes: further arguments for the timm model, such as another width.

    Raises:
        BaseError: if it is not a timm architecture, or does not take these arguments.
    """
    if ref.source == "module":
        raise BaseError(f"{ref.name} is not a timm model: only timm architectures can be reinitialized")
    sizes = {"num_classes": ref.num_classes, "in_chans": ref.in_chans, "img_size": ref.img_size}
    requested: dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    try:
        return create_timm_model(ref.architecture, requested, pretrained=False, **{**ref.model_kwargs, **changes})
    except TypeError as error:
        raise BaseError(f"{ref.architecture} does not take these arguments: {error}") from error


def open_branches(model: nn.Module) -> None:
    """Set norm scales that are zero to one, in place.

    timm's ResNets start with a zero scale at the end of each block: frozen, it lets no gradient through the branch, and
    criteria see nothing of its weights.
    """
    for name, scale in norm_affine(model).items():
        if name.endswith("weight") and not scale.any():
            nn.init.ones_(scale)


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in chain(model.parameters(), model.buffers()))


def parse_model_kwargs(pairs: Sequence[str]) -> dict[str, Scalar]:
    """`["bn_eps=1e-3", "pad_type=same"]` → `{"bn_eps": 0.001, "pad_type": "same"}`.

    Raises:
        BaseError: for a pair without "=".
    """
    kwargs: dict[str, Scalar] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise BaseError(f"--model-kwargs takes key=value, not {pair!r}, e.g. --model-kwargs bn_eps=1e-3")
        try:
            value = json.loads(text.lower() if text in ("True", "False") else text)
        except ValueError:
            value = text
        kwargs[key] = value if isinstance(value, (bool, int, float, str)) else text
    return kwargs


def create_timm_model(name: str, requested: dict[str, Any], **arguments: Any) -> nn.Module:
    """Build a timm model with the `requested` values of num_classes, in_chans and img_size.

    Models that take images of any size have no argument img_size. It then matters only for the data, and is removed
    from `requested`.
    """
    try:
        return timm.create_model(name, **requested, **arguments)
    except TypeError as error:
        if "img_size" not in requested or "img_size" not in str(error):
            raise
        del requested["img_size"]
        return timm.create_model(name, **requested, **arguments)


def did_you_mean(name: str) -> str:
    known = timm.list_models() + timm.list_pretrained()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else ": see timm.list_models() for the names"
