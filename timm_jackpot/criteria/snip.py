from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from torch import Tensor, nn

from timm_jackpot.criteria._gradients import batch_mean, differentiable, gradient
from timm_jackpot.criteria.registry import register_criterion
from timm_jackpot.data import Batch


@register_criterion("snip", paper="Lee et al. 2019, arXiv:1810.02340")
def snip(model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """|w ⊙ g|, with g = ∂L/∂w averaged over `batches` (Lee et al. 2019): how much removing a weight affects the loss.

    Made for untrained networks, and unstable on a trained one, where g is mostly noise: on ResNet-20, the scores from
    two samples of images have a Spearman correlation of 0.64; over 16, 64 and 87 batches each, with no image in common,
    it is 0.65, 0.75 and 0.78, and more batches gave no better mask (hubcards/RESULTS.md). What they agree on is |w| and
    how much g varies.

    Args:
        model: in train or eval mode; it is not changed.
        weights: parameters of `model` by name.
        batches: images [b, c, h, w] with labels [b], all of the same size, read once by SNIP and OBD and twice by
            GraSP; the paper uses one batch.
    """
    with differentiable(model, weights) as parameters:
        mean = batch_mean(parameters, batches, partial(gradient, model, parameters))
    return {name: (w.detach() * g).abs() for (name, w), g in zip(weights.items(), mean, strict=True)}
