"""Build a model without drawing its initial weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What some of `torch.nn.init` (kaiming_normal_ …) and timm's own inits draw with. Skipped for parameters only: a buffer
# that no checkpoint holds may be drawn too.
_DRAWS = {Tensor.normal_, Tensor.uniform_}


class SkipInit(TorchFunctionMode):
    """Inside, the functions of `torch.nn.init` do nothing: initial weights are whatever was in memory.

    For models whose every tensor is then read from a checkpoint *and checked*, and for the meta device.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in _DRAWS and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **kwargs)
