"""Write masks into weights: the plain model that people run, and how sparse it is."""

from __future__ import annotations

import torch
from torch import nn

from timm_jackpot.base import maskable_weights
from timm_jackpot.errors import BaseError
from timm_jackpot.masks import MaskSet


@torch.no_grad()
def merge(model: nn.Module, masks: MaskSet) -> nn.Module:
    """Zero the weights that `masks` removes, in place, layer by layer; the model is returned.

    Zeros are written by multiplication, as the search's own forward does, so that a merged model's logits
    equal the searched one's bit for bit (−0.0 included).

    Raises:
        BaseError: if a name is no parameter of the model, or a shape differs; nothing is changed then.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            raise BaseError(f"the model has no parameter {name!r} to mask")
        if parameters[name].shape != mask.shape:
            raise BaseError(
                f"the mask of {name} has shape {tuple(mask.shape)}, its weight {tuple(parameters[name].shape)}"
            )
    for name, mask in masks.items():
        parameters[name].mul_(mask.to(parameters[name].device))
    return model


def zero_fractions(model: nn.Module) -> dict[str, float]:
    """Fraction of zeros in each conv and linear weight of a plain model, the classifier's too.

    What is left of a mask after something else changed the weights: `timm.models.reparameterize_model` sums the
    branches of a block, and a zero stays only where every branch has one.
    """
    weights = maskable_weights(model, mask_classifier=True).weights
    return {name: 1 - int(weight.count_nonzero()) / weight.numel() for name, weight in weights.items()}
