from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from timm_jackpot.criteria._gradients import differentiable, gradient, hessian_product
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch


@register_criterion("grasp", paper="Wang et al. 2020, arXiv:2002.07376")
def grasp(model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """w ⊙ Hg, with g and H averaged over `batches` (Wang et al. 2020): how much removing a weight lowers ‖g‖².

    The paper removes the weights with the largest −w ⊙ Hg; here, as for every criterion, the smallest scores are
    removed. Scores can have either sign.

    Made for untrained networks, and useless on a trained one: there g is noise, and Hg lies along the few directions of
    large curvature, with whatever sign the noise gives each. On ResNet-20, the scores from two samples of images have a
    Spearman correlation of −0.04; averaged over 2, 4, 8 and 16 batches each, it is 0.02, −0.34, −0.41 and 0.20.

    Args:
        model, weights, batches: as in `snip`.
    """
    with differentiable(model, weights) as parameters:
        mean = [p.new_zeros(p.shape) for p in parameters]
        for batch in batches:
            for total, g in zip(mean, gradient(model, parameters, batch), strict=True):
                total += g / len(batches)
        product = [p.new_zeros(p.shape) for p in parameters]
        for batch in batches:
            for total, hg in zip(product, hessian_product(model, parameters, batch, mean), strict=True):
                total += hg / len(batches)
    return {name: w.detach() * hg for (name, w), hg in zip(weights.items(), product, strict=True)}
