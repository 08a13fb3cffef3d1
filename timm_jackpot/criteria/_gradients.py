"""Gradients of the loss with respect to the weights, for the data-driven criteria; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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


def batch_mean(
    weights: list[nn.Parameter], batches: Iterable[Batch], of: Callable[[Batch], tuple[Tensor, ...]]
) -> list[Tensor]:
    """The mean over `batches` of what `of` gives for one: a tensor for each of `weights`, of its shape."""
    totals, count = [w.new_zeros(w.shape) for w in weights], 0
    for batch in batches:
        count += 1
        for total, one in zip(totals, of(batch), strict=True):
            total += one
    return [total.div_(count) for total in totals]


def gradient(
    model: nn.Module,
    weights: list[nn.Parameter],
    batch: Batch,
    *,
    temperature: float = 1.0,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """∂L/∂w of the mean cross-entropy of one batch; zero for weights that the loss does not depend on.

    Args:
        temperature: divides the logits.
    """
    loss = F.cross_entropy(model(batch.images) / temperature, batch.labels)
    if not loss.requires_grad:  # it depends on none of the weights
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(loss, weights, create_graph=create_graph, materialize_grads=True)


def hessian_product(
    model: nn.Module, weights: list[nn.Parameter], batch: Batch, v: list[Tensor], *, temperature: float = 1.0
) -> tuple[Tensor, ...]:
    """The Hessian-vector product H v, by differentiating ⟨∂L/∂w, v⟩ (Pearlmutter 1994)."""
    gradients = gradient(model, weights, batch, temperature=temperature, create_graph=True)
    product = torch.stack([(g * u).sum() for g, u in zip(gradients, v, strict=True)]).sum()
    if not product.requires_grad:
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(product, weights, materialize_grads=True)
