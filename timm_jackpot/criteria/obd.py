from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from timm_jackpot.criteria._gradients import batch_mean, differentiable
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch


@register_criterion("obd", paper="LeCun et al. 1989")
def obd(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Batch], *, seed: int = 0
) -> dict[str, Tensor]:
    """½ · diag(G) ⊙ w² ≥ 0, G the Gauss-Newton matrix averaged over all images: how much a removal raises the loss.

    Optimal Brain Damage (LeCun et al. 1989) expands the loss around a minimum and treats weights as independent. G
    replaces the Hessian, as in their own Levenberg-Marquardt approximation: it is never negative, and omits the second
    derivatives of the network itself (theirs also ignores interactions between the units of a layer). In a ReLU network
    that uses each layer once, these are zero on the diagonal: the logits are piecewise linear in every single weight.

    G = E[Jᵀ A J], where J is the Jacobian of an image's logits and A = diag(p) − p pᵀ is the Hessian of the
    cross-entropy, which does not depend on the label. With A = S Sᵀ and random signs z, the mean of (Jᵀ S z)² is the
    diagonal of Jᵀ A J (curvature propagation, Martens et al. 2012). Images go through the network one by one: in a
    batch, the cross terms between images average out too, but add noise.

    Args:
        model, weights, batches: as in `snip`; labels are not used.
        seed: seed of the signs, which are drawn on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    images = (
        Batch(*pair) for batch in batches for pair in zip(batch.images.split(1), batch.labels.split(1), strict=True)
    )

    def squares(image: Batch) -> tuple[Tensor, ...]:
        logits = model(image.images)
        if not logits.requires_grad:  # they depend on none of the weights
            return tuple(torch.zeros_like(w) for w in weights.values())
        p = logits.detach().softmax(1)
        z = torch.randint(2, p.shape, generator=generator).mul_(2).sub_(1).to(p.device, p.dtype)
        root = p.sqrt()
        cotangent = root * z - p * (root * z).sum()
        gradients = torch.autograd.grad(logits, parameters, cotangent, materialize_grads=True)
        return tuple(g.square() for g in gradients)

    with differentiable(model, weights) as parameters:
        diagonal = batch_mean(parameters, images, squares)
    return {name: 0.5 * d * w.detach().square() for (name, w), d in zip(weights.items(), diagonal, strict=True)}
