from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from timm_jackpot.criteria._gradients import differentiable, gradient
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch


@register_criterion("snip", paper="Lee et al. 2019, arXiv:1810.02340")
def snip(model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """|w ⊙ g|, with g = ∂L/∂w averaged over `batches` (Lee et al. 2019): how much removing a weight affects the loss.

    Made for untrained networks. On a trained one, g is mostly noise: on ResNet-20, the scores from two samples of
    images have a Spearman correlation of 0.63, and averages over 16 batches each one of 0.64 (0.79 took 97 batches, on
    a less tuned network). What they agree on is |w| and how much g varies.

    Args:
        model: in train or eval mode; it is not changed.
        weights: parameters of `model` by name.
        batches: images [b, c, h, w] with labels [b], all of the same size; the paper uses one batch of 256.
    """
    with differentiable(model, weights) as parameters:
        mean = [p.new_zeros(p.shape) for p in parameters]
        for batch in batches:
            for total, g in zip(mean, gradient(model, parameters, batch), strict=True):
                total += g / len(batches)
    return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), mean, strict=True)}
