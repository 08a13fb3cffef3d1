"""Compact masks: encoded and decoded only against base weights whose hashes are known."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from timm_jackpot.artifact.schema import Config
from timm_jackpot.base import Base, TensorId, tensor_id
from timm_jackpot.errors import BaseMismatchError
from timm_jackpot.masks import MaskSet, encode_compact


def compact_on(masks: MaskSet, base: Base) -> Tensor:
    """Encode `masks` against the weights of `base`, which must be unchanged since loading; returns a U8 tensor.

    Raises:
        BaseMismatchError: if a weight has changed since loading, as after a merge: nobody could decode the result.
    """
    state = base.model.state_dict()
    weights = {name: state[name] for name in masks}
    changed = next((name for name, weight in weights.items() if tensor_id(weight) != base.tensors[name]), None)
    if changed is not None:
        raise BaseMismatchError(
            f"compact masks are encoded against the base's original weights, but {changed} has changed since loading: "
            "save before merging, or save packed"
        )
    return encode_compact(masks, weights)


def check_layers(config: Config, tensors: Mapping[str, TensorId]) -> None:
    """Check that every masked layer has the weights its mask was encoded against: others may rank differently.

    Raises:
        BaseMismatchError: naming the first layer that differs.
    """
    for layer in config.layers:
        found = tensors.get(layer.name)
        if found is None or (found.shape, found.sha256) != (tuple(layer.shape), layer.sha256):
            raise BaseMismatchError(
                f"the compact masks were encoded against the weights of {config.base.name}, but {layer.name} differs "
                "here: load them with the base they were saved with"
            )
