"""Write masks into weights: the plain model that people run."""

from __future__ import annotations

import torch
from torch import nn

from timm_jackpot.masks import MaskSet


@torch.no_grad()
def merge(model: nn.Module, masks: MaskSet) -> nn.Module:
    """Zero the weights that `masks` removes, in place, layer by layer; the model is returned.

    Zeros are written by multiplication, as the search's own forward does, so that a merged model's logits
    equal the searched one's bit for bit (−0.0 included).
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        weight = parameters[name]
        weight.mul_(mask.to(weight.device))
    return model
