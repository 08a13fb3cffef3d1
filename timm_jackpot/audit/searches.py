"""Searching again: the artifact's own search, in memory, from another seed or with labels that mean nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from timm_jackpot.base import Maskable
from timm_jackpot.data import Batch, Data, ImageSource
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet
from timm_jackpot.processes import Shard
from timm_jackpot.search import SearchConfig
from timm_jackpot.search.find import find_masks
from timm_jackpot.search.start import start_of
from timm_jackpot.training import Record, frozen_teacher, make_mixer, prepare_model


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


def search_again(
    dense: nn.Module,
    names: MaskSet,
    data: Data,
    config: SearchConfig,
    *,
    steps: int,
    seed: int,
    shuffle_labels: bool = False,
    accelerator: Accelerator,
) -> MaskSet:
    """The masks that the search of `config` finds from `seed`; with the jackpot's own seed, the jackpot's masks.

    Args:
        dense: the base on its device, frozen; it is left as it is.
        names: masks of the weights to cover.
        shuffle_labels: train on labels that say nothing of their images, and without the base's answers, which do.
    """
    set_seed(seed)
    config = config.model_copy(update={"seed": seed})
    model = copy.deepcopy(dense)
    prepare_model(config, model)
    if shuffle_labels:
        data = replace(data, train=ShuffledLabels(data.train))
    start = start_of(config, covered(model, names), model, data, accelerator)
    distil = config.distill_weight and config.pretrained and not shuffle_labels
    return find_masks(
        model,
        start,
        replace(data, val=None),
        config,
        steps=steps,
        trained=[],
        teacher=frozen_teacher(model) if distil else None,
        mix=make_mixer(config, data.num_classes, config.batch_size),
        accelerator=accelerator,
        record=Record(),
    )


def _in_random_order(source: ImageSource) -> ImageSource:
    """In a stratified batch the neighbour is of one's own class less often than chance has it, which can be learned."""
    return replace(source, stratified=False) if isinstance(source, MemoryImages) else source


def covered(model: nn.Module, names: MaskSet) -> Maskable:
    """The weights of `model` that masks cover, in their order."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return Maskable({name: parameters[name] for name in names}, [], {})
