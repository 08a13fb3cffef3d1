"""Compact masks beside their base: coded and decoded on weights of known hashes only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from timm_jackpot.artifact.schema import Config
from timm_jackpot.base import Base, TensorId, tensor_id
from timm_jackpot.errors import BaseMismatchError
from timm_jackpot.masks import MaskSet, encode_compact


def compact_on(masks: MaskSet, base: Base) -> Tensor:
    """`masks`, coded on the weights of `base` as it was loaded: U8.

    Raises:
        BaseMismatchError: if a weight has changed since, or was merged: no reader could decode on it.
    """
    state = base.model.state_dict()
    weights = {name: state[name] for name in masks}
    odd = next((name for name, weight in weights.items() if tensor_id(weight) != base.tensors[name]), None)
    if odd is not None:
        raise BaseMismatchError(
            f"compact masks are coded on the weights of the base, but {odd} is not as it was loaded: save packed, or "
            "before anything is merged"
        )
    return encode_compact(masks, weights)


def check_layers(config: Config, tensors: Mapping[str, TensorId]) -> None:
    """Every masked layer must be the one that its mask was coded on, or the ranks of its weights may be others.

    Raises:
        BaseMismatchError: naming the first layer that differs.
    """
    for layer in config.layers:
        found = tensors.get(layer.name)
        if found is None or (found.shape, found.sha256) != (tuple(layer.shape), layer.sha256):
            raise BaseMismatchError(
                f"the compact masks are coded on the weights of {config.base.name}, but {layer.name} found here "
                "differs: load them beside the base that they were saved with"
            )
