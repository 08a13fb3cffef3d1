"""Write masks into the weights of a plain model, and measure how sparse it is."""

from __future__ import annotations

import torch
from torch import nn

from timm_jackpot.base import Filters, maskable_weights
from timm_jackpot.errors import BaseError
from timm_jackpot.masks import MaskSet


@torch.no_grad()
def merge(model: nn.Module, masks: MaskSet) -> nn.Module:
    """Zero the weights that `masks` removes, in place, and return the model.

    The weights are multiplied by the mask, as in the search's own forward pass, so that the merged model's logits match
    the searched model's bit for bit (−0.0 included).

    Raises:
        BaseError: if a name is not a parameter of the model, or a shape differs. Nothing is changed then.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            raise BaseError(f"the model has no parameter {name!r} to mask")
        if parameters[name].shape != mask.shape:
            raise BaseError(
                f"the mask of {name} has shape {tuple(mask.shape)}, but its weight has {tuple(parameters[name].shape)}"
            )
    for name, mask in masks.items():
        parameters[name].mul_(mask.to(parameters[name].device))
    return model


@torch.no_grad()
def silence(model: nn.Module, masks: MaskSet, filters: Filters) -> None:
    """Zero the scale and shift of the norms after removed filters, whose channels are then zero."""
    parameters = dict(model.named_parameters())
    for weight, mask in masks.items():
        for name in filters.affine(weight):
            parameters[name].mul_(mask.flatten(1).any(1).to(parameters[name].device))


def zero_fractions(model: nn.Module) -> dict[str, float]:
    """Fraction of zeros in each conv and linear weight of a plain model, including the classifier.

    Shows how much of a mask survives a change of the weights: `timm.models.reparameterize_model`, for example, sums the
    branches of a block, and a zero survives only where every branch has one.
    """
    weights = maskable_weights(model, mask_classifier=True).weights
    return {name: 1 - int(weight.count_nonzero()) / weight.numel() for name, weight in weights.items()}
