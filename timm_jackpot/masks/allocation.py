"""How a global budget becomes per-layer counts. Totals are exact; ties are broken by position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, prod

import torch
from torch import Tensor

from timm_jackpot.errors import ConfigError
from timm_jackpot.masks.patterns import matching, nearest
from timm_jackpot.masks.selection import keep_largest

_MAX_DIGITS = 40  # of a sparsity: more than any model needs
ALLOCATIONS = ("global", "uniform", "erk")


def parse_sparsity(text: str | float | Decimal) -> Decimal:
    """Parse a sparsity into an exact decimal in [0, 1): plain digits such as 0.9, no sign, no exponent.

    Raises:
        ConfigError: if it is anything else.
    """
    plain = text if isinstance(text, str) else _in_digits(Decimal(str(text)))
    if len(plain) > _MAX_DIGITS or not re.fullmatch(r"0*\.?[0-9]+|0+\.", plain) or Decimal(plain) >= 1:
        raise ConfigError(
            f"sparsity {str(text)[:60]!r} is not a number in [0, 1) in plain decimal notation: give the fraction of "
            "weights to remove, e.g. 0.9"
        )
    return Decimal(plain)


def _in_digits(value: Decimal) -> str:
    """`value` without an exponent; "" if that would take too many digits."""
    return f"{value:f}" if abs(value.adjusted()) < _MAX_DIGITS else ""


def kept_count(n: int, sparsity: Decimal | str) -> int:
    """How many of `n` weights are kept: n − ⌊n·s + ½⌋, with s an exact decimal."""
    return n - floor(n * Fraction(parse_sparsity(sparsity)) + Fraction(1, 2))


def kept_filters(shape: Sequence[int], sparsity: Decimal | str) -> int:
    """How many weights of a layer [F, …] are kept if this fraction of its filters is removed; one filter at least."""
    return max(1, kept_count(shape[0], sparsity)) * prod(shape[1:])


def allocate(
    name: str,
    scores: Mapping[str, Tensor],
    sparsity: Decimal | str,
    *,
    minimum: int = 0,
    min_density: float = 0.0,
    overrides: Mapping[str, Decimal | str] | None = None,
) -> dict[str, int]:
    """How many weights each layer keeps under the allocation `name`; `kept_count(total, sparsity)` in total.

    Args:
        name: "global" (the largest scores of the whole model), "uniform" (equal density everywhere) or
            "erk" (density ∝ Σ shape / Π shape, capped at 1; Evci et al. 2020, Erdős-Rényi-kernel).
        scores: the criterion's scores per layer; uniform and erk use only the shapes.
        sparsity: fraction to remove, exact decimal.
        minimum: smallest number of weights a layer keeps (for "global", whose threshold can empty a layer).
        min_density: smallest fraction of its weights a layer keeps.
        overrides: sparsity of individual layers; the others share the rest of the budget.

    Raises:
        ConfigError: for an unknown name, or minimums or overrides that do not fit the budget.
    """
    fixed = {layer: kept_count(scores[layer].numel(), s) for layer, s in (overrides or {}).items()}
    shapes = {layer: tuple(s.shape) for layer, s in scores.items() if layer not in fixed}
    sizes = [prod(shape) for shape in shapes.values()]
    total = kept_count(sum(s.numel() for s in scores.values()), sparsity) - sum(fixed.values())
    floors = [max(min(minimum, size), ceil(Fraction(str(min_density)) * size)) for size in sizes]
    rest = f"{len(sizes)} layers{' without their own sparsity' if fixed else ''}"
    if total < 0:
        raise ConfigError(
            f"the layers with their own sparsity keep {sum(fixed.values())} weights, more than the "
            f"{total + sum(fixed.values())} that sparsity {sparsity} leaves in total: raise their sparsity"
        )
    if total < sum(floors):
        raise ConfigError(
            f"sparsity {sparsity} leaves {total} weights to {rest}, but they need at least {sum(floors)}: lower the "
            "sparsity"
        )
    if total > sum(sizes):
        raise ConfigError(
            f"sparsity {sparsity} leaves {total} weights to {rest}, which have only {sum(sizes)}: raise the sparsity"
        )
    if name == "global":
        counts = _largest_of_all([scores[layer] for layer in shapes], total)
    elif name == "uniform":
        counts = _round_to_total([Fraction(total * size, sum(sizes) or 1) for size in sizes], sizes, total)
    elif name == "erk":
        counts = _round_to_total(_erk_targets(list(shapes.values()), total), sizes, total)
    else:
        raise ConfigError(f"unknown allocation {name!r}: choose one of {', '.join(ALLOCATIONS)}")
    counts = _raise_to(counts, floors)
    assert sum(counts) == total
    free = dict(zip(shapes, counts, strict=True))
    return {layer: fixed[layer] if layer in fixed else free[layer] for layer in scores}


def parse_overrides(pairs: Sequence[str], names: Iterable[str]) -> dict[str, Decimal]:
    """`["layer1.*=0.5"]` → the sparsity of each layer matched by a pattern.

    Raises:
        ConfigError: for a pair without "=", a pattern that matches nothing, or two that match the same layer.
    """
    names, found, matched_by = list(names), {}, {}
    for pair in pairs:
        pattern, separator, text = pair.rpartition("=")
        if not separator:
            raise ConfigError(
                f"--layer-sparsity takes pattern=value, not {pair!r}, e.g. --layer-sparsity 'layer1.*=0.5'"
            )
        layers = matching(pattern, names)
        if not layers:
            raise ConfigError(f"--layer-sparsity {pattern!r} matches no masked layer: {nearest(pattern, names)}")
        for layer in layers:
            if layer in found:
                raise ConfigError(
                    f"--layer-sparsity {matched_by[layer]!r} and {pattern!r} both match {layer}: make them disjoint"
                )
            found[layer], matched_by[layer] = parse_sparsity(text), pattern
    return found


def scale_counts(sizes: Mapping[str, int], counts: Mapping[str, int], fraction: float) -> dict[str, int]:
    """Counts between dense (fraction 0) and `counts` (fraction 1), interpolated linearly in each layer."""
    assert 0 <= fraction <= 1
    return {name: sizes[name] - round((sizes[name] - kept) * fraction) for name, kept in counts.items()}


def _largest_of_all(scores: Sequence[Tensor], total: int) -> list[int]:
    if not scores:
        return []
    sizes = [s.numel() for s in scores]
    mask = keep_largest(torch.cat([s.detach().float().reshape(-1) for s in scores]), total)
    return [int(part.count_nonzero()) for part in mask.split(sizes)]


def _raise_to(counts: list[int], floors: Sequence[int]) -> list[int]:
    """Raise counts to their floors, taking the difference from the layers with the largest surplus."""
    raised = [max(count, low) for count, low in zip(counts, floors, strict=True)]
    debt = sum(raised) - sum(counts)
    while debt:
        richest = max(range(len(raised)), key=lambda i: (raised[i] - floors[i], -i))
        pay = min(debt, max(1, (raised[richest] - floors[richest]) // 2))
        raised[richest] -= pay
        debt -= pay
    return raised


def _erk_targets(shapes: Sequence[tuple[int, ...]], total: int) -> list[Fraction]:
    """Real-valued counts ε·Σshape per layer, capped at the layer's size; the other layers share the excess."""
    sizes = [prod(shape) for shape in shapes]
    full: set[int] = set()
    while True:
        budget = total - sum(sizes[i] for i in full)
        weight = sum(sum(shapes[i]) for i in range(len(shapes)) if i not in full)
        epsilon = Fraction(budget, weight) if weight else Fraction(0)
        over = {i for i in range(len(shapes)) if i not in full and epsilon * sum(shapes[i]) > sizes[i]}
        if not over:
            return [Fraction(sizes[i]) if i in full else epsilon * sum(shapes[i]) for i in range(len(shapes))]
        full |= over


def _round_to_total(targets: Sequence[Fraction], sizes: Sequence[int], total: int) -> list[int]:
    """Largest-remainder rounding: integers adjacent to `targets`, none above its size, that sum to `total`."""
    counts = [floor(target) for target in targets]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - targets[i], i))
    for i in by_remainder[: total - sum(counts)]:
        assert counts[i] < sizes[i]
        counts[i] += 1
    return counts
