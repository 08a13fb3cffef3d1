"""Controls of a jackpot: each takes away one thing that could be what makes it good.

Frankle et al. 2021 (arXiv:2009.08576, "Why are we missing the mark?") shuffle, invert and re-initialise; Su et al. 2020
(arXiv:2009.11094) redraw within layers. Whatever is random comes from the seed, on the CPU.
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
from timm_jackpot.methods.mask_search import search
from timm_jackpot.methods.one_shot import StatisticsSettings
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.search_settings import SearchSettings
from timm_jackpot.methods.task import Outcome, Task, without_training
from timm_jackpot.runtime.processes import Shard

_SANITY = "arXiv:2009.11094"
_MISSING_THE_MARK = "arXiv:2009.08576"


@register_method("permuted_within", family="control", paper=_SANITY, finds_jackpots=False)
def permuted_within(task: Task, budget: Budget, settings: StatisticsSettings) -> Outcome:
    """The jackpot's mask with each layer's elements in random order: counts stay, places go."""
    masks = task.masks_to_control()
    control = checked("permuted_within", permute_within(masks, seed=budget.seed), masks)
    return without_training(task, control, recalibrated=settings.recalibrated)


@register_method("permuted_across", family="control", paper=_MISSING_THE_MARK, finds_jackpots=False)
def permuted_across(task: Task, budget: Budget, settings: StatisticsSettings) -> Outcome:
    """The jackpot's mask with the elements of all layers in random order: the total stays, counts and places go."""
    masks = task.masks_to_control()
    control = checked("permuted_across", permute_across(masks, seed=budget.seed), masks, by_layer=False)
    return without_training(task, control, recalibrated=settings.recalibrated)


@register_method("smallest", family="control", paper=_MISSING_THE_MARK, finds_jackpots=False)
def smallest(task: Task, budget: Budget, settings: StatisticsSettings) -> Outcome:
    """The weights that magnitude would remove first, at the jackpot's layer counts."""
    masks = task.masks_to_control()
    control = checked("smallest", smallest_weights(masks, task.maskable.weights), masks)
    return without_training(task, control, recalibrated=settings.recalibrated)


@register_method("reinitialised", family="control", paper=_MISSING_THE_MARK, finds_jackpots=False)
def reinitialised(task: Task, budget: Budget, settings: StatisticsSettings) -> Outcome:
    """The jackpot's mask over freshly drawn weights."""
    masks = task.masks_to_control()
    weights = {name: task.maskable.weights[name].detach() for name in masks}
    fresh = checked_weights("reinitialised", draw_weights(weights, seed=budget.seed), weights)
    return without_training(task, masks, weights=fresh, recalibrated=settings.recalibrated)


@register_method("shuffled_labels", family="control", paper=_SANITY)
def shuffled_labels(task: Task, budget: Budget, settings: SearchSettings) -> Outcome:
    """The search on labels that say nothing of their images, and without the base's answers, which do."""
    shuffled = replace(task.data, train=ShuffledLabels(task.data.train))
    return search(replace(task, data=shuffled, pretrained=False), budget, settings)


def permute_within(masks: MaskSet, *, seed: int) -> MaskSet:
    """Each layer's mask, its elements in random order: counts stay, places go.

    In distribution the same as the method `random`, made from the jackpot's mask instead of drawn anew: where the two
    differ by more than noise, one of them is broken.
    """
    generator = torch.Generator().manual_seed(seed)
    return MaskSet(
        {
            name: mask.flatten()[torch.randperm(mask.numel(), generator=generator)].reshape(mask.shape)
            for name, mask in masks.items()
        }
    )


def permute_across(masks: MaskSet, *, seed: int) -> MaskSet:
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


def smallest_weights(masks: MaskSet, weights: Mapping[str, Tensor]) -> MaskSet:
    """The weights that magnitude would remove first, with each layer's count."""
    return MaskSet(
        {name: keep_largest(-weights[name].detach().abs(), kept) for name, kept in masks.kept_per_layer().items()}
    )


def draw_weights(weights: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
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


@dataclass(frozen=True)
class ShuffledLabels:
    """A split whose training batches give every image the label of another one.

    Batches are in random order, so that the neighbour in the batch, whose label it is, is any other image of the split;
    it is another one in every epoch. Images, and how often each label comes, are what they were.
    """

    source: ImageSource

    def __len__(self) -> int:
        return len(self.source)

    def train_batches(self, *, seed: int, epoch: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        if batch_size < 2:
            raise ConfigError("labels cannot be shuffled in batches of one image: give a larger --batch-size")
        for images, labels in _in_random_order(self.source).train_batches(
            seed=seed, epoch=epoch, batch_size=batch_size, shard=shard, first=first
        ):
            yield Batch(images, labels.roll(1))

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        return self.source.eval_batches(batch_size=batch_size, shard=shard)


def _in_random_order(source: ImageSource) -> ImageSource:
    """In a stratified batch the neighbour is of one's own class less often than chance has it, which can be learned."""
    return replace(source, stratified=False) if isinstance(source, MemoryImages) else source
