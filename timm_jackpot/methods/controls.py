"""Controls for a jackpot: each removes one thing that could explain its accuracy.

Frankle et al. 2021 (arXiv:2009.08576, "Why are we missing the mark?") shuffle, invert and reinitialize; Su et al. 2020
(arXiv:2009.11094) redraw masks within layers. Everything random is drawn from the seed on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from timm_jackpot.data import Batch, ImageSource
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.masks import MaskSet, chance_overlap, keep_largest, mask_overlap
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.fixed import FixedMaskSettings, under_masks
from timm_jackpot.methods.mask_search import search
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.search_settings import SearchSettings
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.runtime.processes import Shard

_SANITY = "arXiv:2009.11094"
_MISSING_THE_MARK = "arXiv:2009.08576"


@register_method("permuted_within", family="control", paper=_SANITY, finds_jackpots=False)
def permuted_within(task: Task, budget: Budget, settings: FixedMaskSettings) -> Outcome:
    """The jackpot's mask, shuffled within each layer: layer counts stay, positions change."""
    masks = task.masks_to_control()
    control = check_control("permuted_within", permute_within(masks, seed=budget.seed), masks)
    return under_masks(task, control, budget, settings)


@register_method("permuted_across", family="control", paper=_MISSING_THE_MARK, finds_jackpots=False)
def permuted_across(task: Task, budget: Budget, settings: FixedMaskSettings) -> Outcome:
    """The jackpot's mask, shuffled across all layers: the total stays, layer counts and positions change."""
    masks = task.masks_to_control()
    control = check_control("permuted_across", permute_across(masks, seed=budget.seed), masks, by_layer=False)
    return under_masks(task, control, budget, settings)


@register_method("smallest", family="control", paper=_MISSING_THE_MARK, finds_jackpots=False)
def smallest(task: Task, budget: Budget, settings: FixedMaskSettings) -> Outcome:
    """The smallest weights in magnitude, at the jackpot's layer counts."""
    masks = task.masks_to_control()
    control = check_control("smallest", smallest_weights(masks, task.maskable.weights), masks)
    return under_masks(task, control, budget, settings)


@register_method("reinitialised", family="control", paper=_MISSING_THE_MARK, finds_jackpots=False)
def reinitialised(task: Task, budget: Budget, settings: FixedMaskSettings) -> Outcome:
    """The jackpot's mask on newly drawn weights."""
    masks = task.masks_to_control()
    weights = {name: task.maskable.weights[name].detach() for name in masks}
    fresh = check_fresh_weights("reinitialised", draw_weights(weights, seed=budget.seed), weights)
    return under_masks(task, masks, budget, settings, weights=fresh)


@register_method("shuffled_labels", family="control", paper=_SANITY)
def shuffled_labels(task: Task, budget: Budget, settings: SearchSettings) -> Outcome:
    """The search with shuffled labels, and without distillation from the base, which would reveal the true ones."""
    shuffled = replace(task.data, train=ShuffledLabels(task.data.train))
    return search(replace(task, data=shuffled, pretrained=False), budget, settings)


def permute_within(masks: MaskSet, *, seed: int) -> MaskSet:
    """Shuffle the elements of each layer's mask: layer counts stay, positions change.

    This has the same distribution as the method `random`, but is made from the jackpot's mask: if the two differ by
    more than noise, one of them is broken.
    """
    generator = torch.Generator().manual_seed(seed)
    return MaskSet(
        {
            name: mask.flatten()[torch.randperm(mask.numel(), generator=generator)].reshape(mask.shape)
            for name, mask in masks.items()
        }
    )


def permute_across(masks: MaskSet, *, seed: int) -> MaskSet:
    """Shuffle the elements of all layers' masks together: the total stays, positions and layer counts change.

    The allocation is lost too: every layer ends up near the overall density. Each layer keeps at least one weight if
    the total allows it, as in every search: a disconnected network would be no control.
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


def smallest_weights(masks: MaskSet, weights: Mapping[str, Tensor]) -> MaskSet:
    """Keep the smallest weights in magnitude, with the same count in each layer."""
    return MaskSet(
        {name: keep_largest(-weights[name].detach().abs(), kept) for name, kept in masks.kept_per_layer().items()}
    )


def draw_weights(weights: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Draw new normal weights with the same root mean square in each layer.

    Only the values change, not the trained scale: the usual initialization would fail by its scale alone in layers
    without a norm.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator).to(weight) * weight.detach().square().mean().sqrt()
        for name, weight in weights.items()
    }


def check_control(name: str, control: MaskSet, masks: MaskSet, *, by_layer: bool = True) -> MaskSet:
    """Return `control` after checking that it has the right counts and differs from the jackpot's mask.

    The overlap of the two must be closer to chance than to 1: this catches a shuffle that hardly shuffles.

    Args:
        by_layer: whether it must keep each layer's count, or only the total.

    Raises:
        TrainingError: if it is broken.
    """
    same = control.kept_per_layer() == masks.kept_per_layer() if by_layer else control.kept == masks.kept
    if not same:
        raise TrainingError(
            f"the control {name} is broken: it keeps {control.kept} weights and the jackpot {masks.kept}, or their "
            "layer counts differ: this is a bug in timm_jackpot, please report it"
        )
    overlap, chance = mask_overlap(control, masks), chance_overlap(control, masks)
    if overlap >= (1 + chance) / 2:
        raise TrainingError(
            f"the control {name} is broken: it agrees with the jackpot's mask in {100 * overlap:.2f} % of the weights, "
            f"where chance gives {100 * chance:.2f} %: this is a bug in timm_jackpot, please report it"
        )
    return control


def check_fresh_weights(name: str, fresh: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fresh weights themselves, after making sure that every layer's are fresh.

    Raises:
        TrainingError: if a layer has an old value at more than half of its places.
    """
    for layer, weight in weights.items():
        old = (fresh[layer] == weight) & (weight != 0)
        if int(old.count_nonzero()) * 2 > weight.numel():
            raise TrainingError(
                f"the control {name} is broken: {layer} was not reinitialized: this is a bug in timm_jackpot, "
                "please report it"
            )
    return dict(fresh)


@dataclass(frozen=True)
class ShuffledLabels:
    """A split whose training batches give every image the label of another one.

    Each image gets the label of its neighbor in the batch. Batches are in random order, so the neighbor can be any
    other image of the split, and changes every epoch. Images and label frequencies stay the same.
    """

    source: ImageSource

    def __len__(self) -> int:
        return len(self.source)

    def train_batches(self, *, seed: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        if batch_size < 2:
            raise ConfigError("labels cannot be shuffled in batches of one image: give a larger --batch-size")
        for images, labels in _without_stratification(self.source).train_batches(
            seed=seed, batch_size=batch_size, shard=shard, first=first
        ):
            yield Batch(images, labels.roll(1))

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        return self.source.eval_batches(batch_size=batch_size, shard=shard)


def _without_stratification(source: ImageSource) -> ImageSource:
    """In a stratified batch, neighbors share a class less often than by chance, and the search could learn that."""
    return replace(source, stratified=False) if isinstance(source, MemoryImages) else source
