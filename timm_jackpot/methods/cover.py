"""Choose the weights of a base to mask, and report the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch

from timm_jackpot.base import Base, Maskable, maskable_weights, removable_filters
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.methods.budget import FILTERS, n_of_m
from timm_jackpot.schema import Settings

_LEAST_SHARE = 0.01  # of the parameters; masks over fewer say nothing about the network


class CoverFlags(Settings):
    """Which weights to mask."""

    group: ClassVar[str] = "Search"

    include: tuple[str, ...] = ()
    """Mask only weights whose names match one of these shell patterns, such as 'stages.3.*'."""
    exclude: tuple[str, ...] = ()
    """Leave weights dense whose names match one of these shell patterns."""
    mask_classifier: bool = False
    """Mask the classifier too. By default it stays dense, as in the paper."""

    def check_for(self, base: Base) -> None:
        """Raises: ConfigError: if a new head should be masked."""
        if self.mask_classifier and base.new_head:
            raise ConfigError("--mask-classifier cannot be used with a new head: masks cover pre-trained weights only")


def find_maskable(
    flags: CoverFlags, base: Base, input_size: Sequence[int], *, allocation: str, strict: bool = False
) -> Maskable:
    """Find the weights to mask.

    Args:
        input_size: channels, height and width of the base's images.
        allocation: layers that an N:M pattern does not fit, or that cannot lose single filters, are left dense.
        strict: fail on layers that an N:M pattern does not fit instead.

    Raises:
        BaseError: if there is (almost) nothing to mask, or filters are asked for and the model cannot be traced.
        ConfigError: if `strict` and an N:M pattern does not fit a layer; or without torch-pruning, which filters need.
    """
    images = torch.zeros(2, *input_size, device=next(base.model.parameters()).device)
    maskable = maskable_weights(
        base.model,
        mask_classifier=flags.mask_classifier,
        include=flags.include,
        exclude=flags.exclude,
        images=images,
    )
    maskable = maskable.leave_dense(_not_fitting(maskable, allocation, strict))
    if allocation == FILTERS:
        filters, reasons = removable_filters(base.model, maskable.weights, images)
        maskable = replace(maskable.leave_dense(reasons), filters=filters)
    share = _share(base, maskable)
    if not maskable.weights or (share < _LEAST_SHARE and not flags.include):
        what = (
            f"masks would cover only {100 * share:.2f} % of its parameters"
            if maskable.weights
            else "there is nothing to mask"
        )
        raise BaseError(f"{base.ref.name} cannot be masked: {what}; {_why_dense(maskable) or 'it has no weights'}")
    return maskable


def coverage_notice(base: Base, maskable: Maskable) -> str | None:
    """A notice if the masks cover less than half of the parameters."""
    share = _share(base, maskable)
    if share >= 0.5:
        return None
    return f"note: masks cover {100 * share:.1f} % of the parameters of {base.ref.name}; {_why_dense(maskable)}"


def _not_fitting(maskable: Maskable, allocation: str, strict: bool) -> dict[str, str]:
    """Layers to leave dense because their dim 1 is not a multiple of M, with the reason."""
    pattern = n_of_m(allocation)
    if pattern is None:
        return {}
    n, m = pattern
    shapes = {name: shape for name, shape in maskable.shapes.items() if shape[1] % m}
    if shapes and strict:
        name = next(iter(shapes))
        raise ConfigError(
            f"--allocation {n}:{m} does not fit {name} of shape {shapes[name]}: its dim 1 is not a multiple of {m} "
            "(without --strict, the layer is left dense)"
        )
    return {name: f"its {shape[1]} input channels are not a multiple of {m}" for name, shape in shapes.items()}


def _share(base: Base, maskable: Maskable) -> float:
    return sum(maskable.sizes.values()) / max(1, sum(p.numel() for p in base.model.parameters()))


def _why_dense(maskable: Maskable) -> str:
    """The weights left dense: for each of the three most frequent reasons, the first weight and how many more."""
    groups: dict[str, list[str]] = {}
    for name, reason in maskable.dense:
        groups.setdefault(reason, []).append(name)
    commonest = sorted(groups.items(), key=lambda group: -len(group[1]))[:3]
    parts = [f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)} ({reason})" for reason, names in commonest]
    return f"left dense: {', '.join(parts)}" if parts else ""
