"""Gradients of the loss with respect to the weights, for the data-driven criteria; nothing else changes."""

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
    """Put `model` in eval mode with gradients for exactly `weights`; everything is restored on exit.

    In eval mode, running statistics do not change or depend on the batch, and there is no dropout. Attention uses the
    only kernel that can be differentiated twice.
    """
    modes = [(module, module.training) for module in model.modules()]
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield list(weights.values())
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


def gradient(
    model: nn.Module, weights: list[nn.Parameter], batch: Batch, *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """∂L/∂w of the mean cross-entropy of one batch; zero for weights that the loss does not depend on."""
    loss = F.cross_entropy(model(batch.images), batch.labels)
    if not loss.requires_grad:  # it depends on none of the weights
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(loss, weights, create_graph=create_graph, materialize_grads=True)


def hessian_product(model: nn.Module, weights: list[nn.Parameter], batch: Batch, v: list[Tensor]) -> tuple[Tensor, ...]:
    """The Hessian-vector product H v, by differentiating ⟨∂L/∂w, v⟩ (Pearlmutter 1994)."""
    gradients = gradient(model, weights, batch, create_graph=True)
    product = torch.stack([(g * u).sum() for g, u in zip(gradients, v, strict=True)]).sum()
    if not product.requires_grad:
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(product, weights, materialize_grads=True)
