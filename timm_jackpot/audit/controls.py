"""Masks that are not the jackpot's: each takes away one thing that could be what makes it good.

Frankle et al. 2021 (arXiv:2009.08576, "Why are we missing the mark?") shuffle, invert and re-initialise; Su et al. 2020
(arXiv:2009.11094) redraw within layers. Every function is pure; whatever is random comes from its seed, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from timm_jackpot import criteria
from timm_jackpot.errors import TrainingError
from timm_jackpot.masks import MaskSet, chance_overlap, keep_largest, mask_overlap


def permuted_within(masks: MaskSet, *, seed: int) -> MaskSet:
    """Each layer's mask, its elements in random order: counts stay, places go.

    In distribution the same as `random_masks`, made from the jackpot's mask instead of drawn anew: where the two
    differ by more than noise, one of them is broken.
    """
    generator = torch.Generator().manual_seed(seed)
    return MaskSet(
        {
            name: mask.flatten()[torch.randperm(mask.numel(), generator=generator)].reshape(mask.shape)
            for name, mask in masks.items()
        }
    )


def permuted_across(masks: MaskSet, *, seed: int) -> MaskSet:
    """All layers' masks as one, its elements in random order: the total stays, places and layer counts go.

    The allocation is lost with the places: every layer comes out near the density of the whole. One weight of each
    layer is kept where the total allows it, as in every search: a network that was cut through would be no control.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = [mask.numel() for mask in masks.values()]
    whole = torch.zeros(sum(sizes), dtype=torch.bool)
    total = masks.kept
    if total >= sum(size > 0 for size in sizes):
        first = 0
        for size in sizes:
            if size:
                whole[first + int(torch.randint(size, (), generator=generator))] = True
            first += size
    free = (~whole).nonzero().flatten()
    drawn = torch.randperm(len(free), generator=generator)[: total - int(whole.count_nonzero())]
    whole[free[drawn]] = True
    parts = whole.split(sizes)
    return MaskSet({name: part.reshape(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)})


def random_masks(masks: MaskSet, *, seed: int) -> MaskSet:
    """Uniformly drawn masks with each layer's count."""
    scores = criteria.random(masks, seed=seed)
    return MaskSet({name: keep_largest(scores[name], kept) for name, kept in masks.kept_per_layer().items()})


def smallest_weights(masks: MaskSet, weights: Mapping[str, Tensor]) -> MaskSet:
    """The weights that magnitude would remove first, with each layer's count."""
    return MaskSet(
        {name: keep_largest(-weights[name].detach().abs(), kept) for name, kept in masks.kept_per_layer().items()}
    )


def reinitialised(weights: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Fresh normal weights, each layer with the root mean square that it has now.

    The scale is the trained one, the values are not: a network's own initialisation would lose by its scale alone
    where no norm takes it out.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator).to(weight) * weight.detach().square().mean().sqrt()
        for name, weight in weights.items()
    }


def checked(name: str, control: MaskSet, masks: MaskSet, *, by_layer: bool = True) -> MaskSet:
    """The control itself, after making sure that it is one: the right counts, and other places.

    Other places: it overlaps with the jackpot's mask by less than half-way from chance to identity. A shuffle that
    shuffles nothing, or hardly anything, is refused.

    Args:
        by_layer: whether it must keep each layer's count, or the total alone.

    Raises:
        TrainingError: if it is broken.
    """
    same = control.kept_per_layer() == masks.kept_per_layer() if by_layer else control.kept == masks.kept
    if not same:
        raise TrainingError(
            f"the control {name} is broken: it keeps {control.kept} weights, the jackpot {masks.kept}, or other counts "
            "of its layers: this is a fault of timm_jackpot, please report it"
        )
    overlap, chance = mask_overlap(control, masks), chance_overlap(control, masks)
    if overlap >= (1 + chance) / 2:
        raise TrainingError(
            f"the control {name} is broken: it agrees with the jackpot's mask in {100 * overlap:.2f} % of the weights, "
            f"where chance gives {100 * chance:.2f} %: this is a fault of timm_jackpot, please report it"
        )
    return control


def checked_weights(name: str, fresh: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fresh weights themselves, after making sure that every layer's are fresh.

    Raises:
        TrainingError: if a layer has an old value at more than half of its places.
    """
    for layer, weight in weights.items():
        old = (fresh[layer] == weight) & (weight != 0)
        if int(old.count_nonzero()) * 2 > weight.numel():
            raise TrainingError(
                f"the control {name} is broken: {layer} was not initialised anew: this is a fault of timm_jackpot, "
                "please report it"
            )
    return dict(fresh)
