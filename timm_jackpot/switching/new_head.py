"""`NewHead`: another head on a model, and the way back to the very objects that it had."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from timm_jackpot.errors import BaseMismatchError

_REGISTRIES = ("_modules", "_parameters", "_buffers")


class NewHead:
    """What `reset_classifier` changed in a model: plain references, so that a copy of both fits its own model."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        """Give `model` a head of so many classes, in place, frozen and in eval mode; its values are arbitrary.

        Raises:
            BaseMismatchError: as `reset_head`.
        """
        known = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
        like = next(model.parameters())
        # Everything at first, so that there is a way back from a reset that fails, then what it really changed.
        self._attributes = [(module, dict(vars(module))) for module in model.modules()]
        self._registries = [(m, which, dict(getattr(m, which))) for m in model.modules() for which in _REGISTRIES]
        try:
            reset_head(model, num_classes)
        except BaseException:
            self.take_off()
            raise
        self._attributes = [
            (module, changed)
            for module, old in self._attributes
            if (changed := {k: v for k, v in old.items() if vars(module).get(k, self) is not v})
        ]
        self._registries = [e for e in self._registries if not _same(getattr(e[0], e[1]), e[2])]
        for tensor in model.state_dict(keep_vars=True).values():
            if id(tensor) not in known:
                tensor.data = tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
        model.eval().requires_grad_(False)

    def take_off(self) -> None:
        """Put the model's own head back; what was set elsewhere since then stays."""
        for module, which, old in self._registries:
            registry: dict[str, Any] = getattr(module, which)
            registry.clear()
            registry.update(old)
        for module, old in self._attributes:
            vars(module).update(old)


def reset_head(model: nn.Module, num_classes: int) -> None:
    """timm's `reset_classifier`, with torch's random state left as it is.

    Raises:
        BaseMismatchError: if the model has no way to change its head.
    """
    if not hasattr(model, "reset_classifier"):
        raise BaseMismatchError(
            f"the jackpot has a head of {num_classes} classes, and a {type(model).__name__} cannot change its head"
        )
    with torch.random.fork_rng(devices=[]):
        model.reset_classifier(num_classes)  # pyright: ignore[reportCallIssue]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same objects under the same names in the same order."""
    return [*one] == [*other] and all(value is other[name] for name, value in one.items())
