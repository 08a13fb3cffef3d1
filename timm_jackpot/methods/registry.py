"""Methods by name. To add one, decorate a function: search, compare, sweep, transfer and audit can then run it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from accelerate.utils import set_seed

from timm_jackpot.errors import ConfigError
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.task import Outcome, Task
from timm_jackpot.schema import Settings

Family = Literal["reference", "one-shot", "mask search", "ticket", "sparse training", "control"]
F = TypeVar("F", bound=Callable[..., Outcome])
_registered: dict[str, Method] = {}


@dataclass(frozen=True)
class Method:
    """A function that turns a task and a budget into a network."""

    name: str
    family: Family
    paper: str
    function: Callable[[Task, Budget, Any], Outcome]
    settings: type[Settings]
    defaults: Mapping[str, Any] = field(default_factory=dict)  # run settings that differ from the usual defaults
    finds_jackpots: bool = True  # it masks the base's own weights, so an artifact can hold the result

    @property
    def trains_tickets(self) -> bool:
        """Whether it masks weights that it trains itself, so that a ticket can hold the result."""
        return self.family in ("ticket", "sparse training")

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")

    def run(self, task: Task, budget: Budget, settings: Settings | None = None) -> Outcome:
        """Run the method; the same seed gives the same outcome, whatever ran before.

        Args:
            settings: the method's own settings, or run settings that include them. Default: its defaults, and its own
                sparsity if it has one.

        Raises:
            JackpotError: whatever the method raises.
        """
        if settings is None:
            budget = replace(budget, sparsity=self.defaults.get("sparsity", budget.sparsity))
            own = {key: value for key, value in self.defaults.items() if key in self.settings.model_fields}
            settings = self.settings(**own)
        assert isinstance(settings, self.settings), (self.name, type(settings))
        set_seed(budget.seed)
        return self.function(task, budget, settings)


def register_method(
    name: str,
    *,
    family: Family,
    paper: str = "",
    defaults: Mapping[str, Any] | None = None,
    finds_jackpots: bool = True,
) -> Callable[[F], F]:
    """Register `function(task, budget, settings) -> Outcome`; the type of `settings` defines its flags.

    Args:
        paper: its reference, such as arXiv:1911.11134.
        defaults: run settings that this method changes, such as allocation.
        finds_jackpots: whether it masks the base's weights without changing them, so that an artifact can hold the
            outcome.
    """
    assert family in get_args(Family), family
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name), name  # names that an audit report can hold
    assert name not in _registered, f"method {name} is already registered"

    def add(function: F) -> F:
        settings = get_type_hints(function)["settings"]
        _registered[name] = Method(name, family, paper, function, settings, dict(defaults or {}), finds_jackpots)
        return function

    return add


def unregister_method(name: str) -> None:
    """Remove a method again (for tests)."""
    del _registered[name]


def method(name: str) -> Method:
    """Raises: ConfigError: if there is no method of that name."""
    if name not in _registered:
        near = difflib.get_close_matches(name, _registered, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(_registered)}"
        raise ConfigError(f"there is no method {name[:100]!r}: {hint}")
    return _registered[name]


def all_methods() -> list[Method]:
    """All methods, in the order of registration."""
    return list(_registered.values())


def method_names() -> list[str]:
    return list(_registered)


def jackpot_method_names() -> list[str]:
    """The methods whose outcome an artifact can hold."""
    return [one.name for one in _registered.values() if one.finds_jackpots]
