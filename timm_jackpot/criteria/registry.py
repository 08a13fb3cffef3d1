"""Criteria by name. To add one, decorate a function: every flag that takes a criterion then accepts it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from timm_jackpot.data import Batch
from timm_jackpot.errors import ConfigError

F = TypeVar("F", bound=Callable[..., dict[str, Tensor]])
_ARGUMENTS = frozenset(("weights", "model", "batches", "input_size", "seed", "kept"))
_registered: dict[str, Criterion] = {}


@dataclass(frozen=True)
class Criterion:
    """A function that gives each weight an initial score: larger = more worth keeping."""

    name: str
    paper: str
    function: Callable[..., dict[str, Tensor]]
    needs: frozenset[str]  # the parameters of the function: any of _ARGUMENTS

    def scores(
        self,
        weights: Mapping[str, nn.Parameter],
        model: nn.Module,
        *,
        batches: Callable[[], Iterable[Batch]],
        input_size: Sequence[int],
        seed: int,
        kept: Callable[[], Mapping[str, int]],
    ) -> dict[str, Tensor]:
        """Scores of the `weights` of `model`, by name. `batches` and `kept` (the number of weights that each mask will
        keep) are called only if the function needs them, and the batches may be read more than once."""
        arguments: dict[str, Callable[[], Any]] = {
            "weights": lambda: weights,
            "model": lambda: model,
            "batches": batches,
            "input_size": lambda: input_size,
            "seed": lambda: seed,
            "kept": kept,
        }
        return self.function(**{name: arguments[name]() for name in self.needs})


def register_criterion(name: str, *, paper: str) -> Callable[[F], F]:
    """Register a function that takes any of `weights`, `model`, `batches`, `input_size`, `seed`, `kept` and
    returns scores."""

    def add(function: F) -> F:
        needs = frozenset(inspect.signature(function).parameters)
        assert needs <= _ARGUMENTS, f"a criterion can only take {', '.join(sorted(_ARGUMENTS))}"
        assert name not in _registered, f"criterion {name} is already registered"
        _registered[name] = Criterion(name, paper, function, needs)
        return function

    return add


def criterion(name: str) -> Criterion:
    """Raises: ConfigError: if there is no criterion of that name."""
    if name not in _registered:
        raise ConfigError(f"there is no criterion {name!r}: choose one of {', '.join(criterion_names())}")
    return _registered[name]


def criterion_names(*, without_images: bool = False) -> list[str]:
    """All registered criteria, or only those that need no images."""
    return [one.name for one in _registered.values() if not (without_images and "batches" in one.needs)]
