"""What the data-driven criteria share: gradients of the loss with respect to the weights, and nothing else moving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from timm_jackpot.data import Batch


@contextmanager
def differentiable(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Inside, `model` is in eval mode and exactly `weights` ask for gradients; all is as before afterwards.

    Eval mode: running statistics neither move nor depend on the batch, and nothing is dropped at random. Attention
    takes the one kernel that can be differentiated twice.
    """
    modes = [(module, module.training) for module in model.modules()]
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield list(weights.values())
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in asked:
            parameter.requires_grad_(requires_grad)


def gradient(
    model: nn.Module, weights: list[nn.Parameter], batch: Batch, *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """∂L/∂w of the mean cross-entropy of one batch; zeros for a weight that the loss does not depend on."""
    loss = F.cross_entropy(model(batch.images), batch.labels)
    if not loss.requires_grad:  # none of the weights has a part in it
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(loss, weights, create_graph=create_graph, materialize_grads=True)


def hessian_product(model: nn.Module, weights: list[nn.Parameter], batch: Batch, v: list[Tensor]) -> tuple[Tensor, ...]:
    """H v, by differentiating ⟨∂L/∂w, v⟩ once more (Pearlmutter 1994)."""
    gradients = gradient(model, weights, batch, create_graph=True)
    product = torch.stack([(g * u).sum() for g, u in zip(gradients, v, strict=True)]).sum()
    if not product.requires_grad:
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(product, weights, materialize_grads=True)
