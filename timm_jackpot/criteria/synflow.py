from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from timm_jackpot.criteria.registry import register_criterion


@register_criterion("synflow", paper="Tanaka et al. 2020, arXiv:2006.05467")
def synflow(model: nn.Module, weights: Mapping[str, nn.Parameter], input_size: Sequence[int]) -> dict[str, Tensor]:
    """w ⊙ ∂R/∂w ≥ 0, with R = Σ f(1; |θ|): the synaptic flow through each weight (Tanaka et al. 2020). Needs no data.

    R is the sum of the outputs in eval mode for one image of ones, with all parameters and buffers replaced by their
    absolute values. This is the paper's score, evaluated once, in float64 because deep networks overflow float32.

    Args:
        model: in train or eval mode; it is not changed.
        weights: parameters of `model` by name.
        input_size: channels, height and width.
    """
    linear = copy.deepcopy(model).double().eval().requires_grad_(False)
    with torch.no_grad():
        for tensor in linear.state_dict().values():
            tensor.abs_()
    named = dict(linear.named_parameters(remove_duplicate=False))
    parameters = [named[name].requires_grad_(True) for name in weights]
    with torch.enable_grad():
        ones = torch.ones(1, *input_size, dtype=torch.float64, device=parameters[0].device)
        flow = linear(ones).sum()
        if flow.requires_grad:
            gradients = torch.autograd.grad(flow, parameters, materialize_grads=True)
        else:  # it depends on none of the weights
            gradients = [torch.zeros_like(p) for p in parameters]
    # Scaled before going back to float32, whose range may be too small: only the ratios of the scores matter.
    scores = [(p.detach() * g).abs() for p, g in zip(parameters, gradients, strict=True)]
    largest = torch.stack([s.max() for s in scores]).max().clamp_min(torch.finfo(torch.float64).tiny)
    return {name: (s / largest).float() for name, s in zip(weights, scores, strict=True)}
