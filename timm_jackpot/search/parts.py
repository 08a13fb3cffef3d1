"""What of a base is masked, what is trained beside it, and what stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from timm_jackpot.base import Base, Maskable, classifier_parameters, maskable_weights, norm_affine
from timm_jackpot.data import ImageSource
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.processes import Shard
from timm_jackpot.search.config import SearchConfig

_LEAST_SHARE = 0.01  # of the parameters: below, a mask says nothing about the network


class Trained(NamedTuple):
    """A parameter that moves beside the scores."""

    role: Literal["norm_affine", "head"]
    parameter: nn.Parameter


def divide(config: SearchConfig, base: Base, input_size: Sequence[int]) -> tuple[Maskable, dict[str, Trained]]:
    """What is masked, and what is trained beside it.

    Raises:
        BaseError: if there is nothing to mask, or nothing to train where that was asked for.
        ConfigError: for settings that exclude each other, or, if `config.strict`, layers that a pattern does not fit.
    """
    classifier = classifier_parameters(base.model)
    maskable = maskable_weights(
        base.model,
        mask_classifier=config.mask_classifier,
        include=config.include,
        exclude=config.exclude,
        images=torch.zeros(2, *input_size),
    )
    if config.n_of_m is not None:
        maskable = maskable.leave_dense(_unfit(maskable, config))
    share = _share(base, maskable)
    if not maskable.weights or (share < _LEAST_SHARE and not config.include):
        what = f"masks would cover {100 * share:.2f} % of its parameters" if maskable.weights else "nothing to mask"
        raise BaseError(f"{base.ref.name} cannot be masked: {what}; {_why_dense(maskable) or 'it has no weights'}")
    trained: dict[str, Trained] = {}
    if has_new_head(base) or config.train_head:
        trained |= {name: Trained("head", p) for name, p in classifier.items() if name not in maskable.weights}
        if not trained:
            raise BaseError(f"{base.ref.name} has no classifier to train: leave --train-head out")
    if config.train_norm:
        affine = {name: Trained("norm_affine", p) for name, p in norm_affine(base.model).items() if name not in trained}
        if not affine:
            raise BaseError(f"{base.ref.name} has no scales and shifts of norms to train: leave --train-norm out")
        trained |= affine
    return maskable, trained


def has_new_head(base: Base) -> bool:
    """Whether the classifier was initialised anew."""
    return any(name in base.adapted for name in classifier_parameters(base.model))


@torch.no_grad()
def idle_head_notice(base: Base, train: ImageSource, batch_size: int) -> str | None:
    """A word where a module answers training images no better than their commonest class would.

    Its head may be new, though nobody said so: it would be distilled from, and stay as it is.
    """
    batch = next(train.train_batches(seed=0, epoch=0, batch_size=min(batch_size, len(train)), shard=Shard()))
    device = next(base.model.parameters()).device
    answers = base.model.eval()(batch.images.to(device)).argmax(1).to(batch.labels.device)
    n, hits = len(batch.labels), int((answers == batch.labels).sum())
    commonest = int(batch.labels.bincount().max())
    if hits > commonest + 2 * (commonest * (1 - commonest / n)) ** 0.5:  # two standard deviations of a guess
        return None
    return (
        f"note: {base.ref.name} is right on {hits} of {n} training images, as a guess would be: if its last layer is "
        "new, pass new_head=True to base_from_module, or it stays as it is"
    )


def _unfit(maskable: Maskable, config: SearchConfig) -> dict[str, str]:
    """Layers whose dim 1 is no multiple of M, with that as the reason to leave them dense."""
    assert config.n_of_m is not None
    n, m = config.n_of_m
    shapes = {name: shape for name, shape in maskable.shapes.items() if shape[1] % m}
    if shapes and config.strict:
        name = next(iter(shapes))
        raise ConfigError(
            f"--allocation {n}:{m} does not fit {name} of shape {shapes[name]}: its dim 1 is no multiple of {m} "
            "(without --strict it is left dense)"
        )
    return {name: f"its {shape[1]} input channels are no multiple of {m}" for name, shape in shapes.items()}


def coverage_notice(base: Base, maskable: Maskable) -> str | None:
    """A word where the masks reach less than half of the parameters."""
    share = _share(base, maskable)
    if share >= 0.5:
        return None
    return f"note: masks cover {100 * share:.1f} % of the parameters of {base.ref.name}; {_why_dense(maskable)}"


def _share(base: Base, maskable: Maskable) -> float:
    return sum(maskable.sizes.values()) / max(1, sum(p.numel() for p in base.model.parameters()))


def _why_dense(maskable: Maskable) -> str:
    """The weights left dense: the first by name for each of the commonest reasons."""
    groups: dict[str, list[str]] = {}
    for name, reason in maskable.dense:
        groups.setdefault(reason, []).append(name)
    commonest = sorted(groups.items(), key=lambda group: -len(group[1]))[:3]
    parts = [f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)} ({reason})" for reason, names in commonest]
    return f"left dense: {', '.join(parts)}" if parts else ""
