"""Criteria by name. A new one is a decorated function: it is found wherever a criterion can be named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from timm_jackpot.data import Batch
from timm_jackpot.errors import ConfigError

F = TypeVar("F", bound=Callable[..., dict[str, Tensor]])
_OFFERED = frozenset(("weights", "model", "batches", "input_size", "seed"))
_registered: dict[str, Criterion] = {}


@dataclass(frozen=True)
class Criterion:
    """Initial scores, one per weight: larger = more worth keeping."""

    name: str
    paper: str
    function: Callable[..., dict[str, Tensor]]
    needs: frozenset[str]  # of weights, model, batches, input_size and seed, by the function's parameters

    def scores(
        self,
        weights: Mapping[str, nn.Parameter],
        model: nn.Module,
        *,
        batches: Callable[[], Sequence[Batch]],
        input_size: Sequence[int],
        seed: int,
    ) -> dict[str, Tensor]:
        """Scores of `weights` of `model`, by name; images are read only where they are needed."""
        offered: dict[str, Callable[[], Any]] = {
            "weights": lambda: weights,
            "model": lambda: model,
            "batches": batches,
            "input_size": lambda: input_size,
            "seed": lambda: seed,
        }
        return self.function(**{name: offered[name]() for name in self.needs})


def register_criterion(name: str, *, paper: str) -> Callable[[F], F]:
    """Decorate a function from any of `weights`, `model`, `batches`, `input_size` and `seed` to scores by name."""

    def add(function: F) -> F:
        needs = frozenset(inspect.signature(function).parameters)
        assert needs <= _OFFERED, f"a criterion is given {', '.join(sorted(_OFFERED))}, and nothing else"
        assert name not in _registered, f"there is a criterion {name} already"
        _registered[name] = Criterion(name, paper, function, needs)
        return function

    return add


def criterion(name: str) -> Criterion:
    """Raises: ConfigError: if none has that name."""
    if name not in _registered:
        raise ConfigError(f"there is no criterion {name!r}: choose one of {', '.join(criterion_names())}")
    return _registered[name]


def criterion_names(*, without_images: bool = False) -> list[str]:
    """All that are registered, or those that need no images."""
    return [one.name for one in _registered.values() if not (without_images and "batches" in one.needs)]
