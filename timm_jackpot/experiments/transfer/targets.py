"""Load a target, and evaluate masks on it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from timm_jackpot.adapter import merge
from timm_jackpot.base import Base, classifier_parameters, norm_layers
from timm_jackpot.data import Data, default_data_notice, open_data
from timm_jackpot.errors import BaseError, DataError
from timm_jackpot.evaluation import Accuracy, evaluate_accuracy
from timm_jackpot.experiments.transfer.plan import HeadRule
from timm_jackpot.masks import MaskSet
from timm_jackpot.runtime.processes import say
from timm_jackpot.search import RunConfig
from timm_jackpot.training import Objective, OptimFlags, Record, cosine, fit, make_optimizer, recalibrate

_STATISTICS_IMAGES = 2_560  # for norm statistics; twenty batches of 128 are enough for means and variances


@dataclass(frozen=True)
class Target:
    """A data set, and a base with as many classes."""

    name: str
    base: Base
    data: Data
    batch_size: int


def open_target(name: str, search: RunConfig, accelerator: Accelerator) -> Target:
    """Load the base and the images of a target.

    Raises:
        DataError: if its data cannot be read, or have fewer than two classes or less than one batch.
        BaseError: if the base cannot be loaded, or its head cannot be replaced.
    """
    try:
        base = search.load()
        say(default_data_notice(search, base.model), accelerator)
        data = open_data(search, base.model, device=accelerator.device, img_size=search.img_size)
    except DataError as error:
        raise DataError(f"target {name}: {error}") from error
    if data.num_classes < 2:
        raise DataError(f"target {name} has {data.num_classes} class: at least two are needed")
    if len(data.train) < search.batch_size * accelerator.num_processes:
        raise DataError(f"target {name} has {len(data.train)} training images, fewer than one batch: lower batch_size")
    if not classifier_parameters(base.model) or not hasattr(base.model, "reset_classifier"):
        raise BaseError(
            f"{base.ref.name} has no classifier that can be replaced, so it cannot be evaluated on other data"
        )
    base.model.requires_grad_(False).to(accelerator.device)
    return Target(name, base, data, search.batch_size)


def evaluate_mask(target: Target, masks: MaskSet, head: HeadRule, seed: int, accelerator: Accelerator) -> Accuracy:
    """Top-1 of the base under `masks` with a new head, on the test split of `target`.

    Norm statistics are re-estimated first, then the head is initialized and trained, both in the same way for every
    mask; everything else is frozen. Empty masks evaluate the dense base.

    Raises:
        BaseError: if the masks do not fit the base.
        TrainingError: as `fit`.
    """
    model = merge(deepcopy(target.base.model), masks)
    torch.manual_seed(seed)  # the same initial head for every mask
    model.reset_classifier(target.data.num_classes)  # pyright: ignore[reportCallIssue]
    model.to(accelerator.device)
    recalibrate(model, target.data, target.batch_size, accelerator, images=_STATISTICS_IMAGES)
    trained = list(classifier_parameters(model).values())
    fit(
        accelerator=accelerator,
        model=model,
        optimizer=make_optimizer(OptimFlags(lr=head.head_lr), trained),
        objective=Objective(),
        train=target.data.train,
        batch_size=target.batch_size,
        seed=seed,
        steps=head.head_steps,
        lr_at=lambda step: cosine(step, head.head_steps, peak=head.head_lr),
        record=Record(),
        title=f"head on {target.name}",
        keep_in_eval=[layer for _, layer in norm_layers(model)],
        log_every=head.head_steps,
    )
    return evaluate_accuracy(model, target.data.test, batch_size=target.batch_size, accelerator=accelerator)
