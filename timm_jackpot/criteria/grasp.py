from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from torch import Tensor, nn

from timm_jackpot.criteria._gradients import batch_mean, differentiable, gradient, hessian_product
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch

_TEMPERATURE = 200.0  # of the authors' code (github.com/alecwangcq/GraSP)


@register_criterion("grasp", paper="Wang et al. 2020, arXiv:2002.07376")
def grasp(model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """w ⊙ Hg, with g and H averaged over `batches` (Wang et al. 2020): how much removing a weight lowers ‖g‖².

    The paper removes the weights with the largest −w ⊙ Hg; here, as for every criterion, the smallest scores are
    removed. Scores can have either sign.

    Logits are divided by 200, as in the authors' code. On a trained network, the gradient of the plain loss over one
    batch is noise, and Hg lies along the few directions of large curvature, with whatever sign the noise gives each: on
    ResNet-20, the scores from two samples of images have a Spearman correlation of −0.06. At that temperature, no image
    is fitted yet, all pull the same way, and it is 0.89. But GraSP is made for untrained networks: the one-shot mask of
    a trained one is no better than guessing (hubcards/RESULTS.md).

    Args:
        model, weights, batches: as in `snip`.
    """
    with differentiable(model, weights) as parameters:
        mean = batch_mean(parameters, batches, partial(gradient, model, parameters, temperature=_TEMPERATURE))
        towards_mean = partial(hessian_product, model, parameters, v=mean, temperature=_TEMPERATURE)
        product = batch_mean(parameters, batches, towards_mean)
    return {name: w.detach() * hg for (name, w), hg in zip(weights.items(), product, strict=True)}
