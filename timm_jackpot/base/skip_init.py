"""Build a model without initializing its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Used by some of `torch.nn.init` (kaiming_normal_ …) and by timm's own initializers. Skipped only for parameters:
# random buffers may not be in the checkpoint.
_DRAWS = {Tensor.normal_, Tensor.uniform_}


class SkipInit(TorchFunctionMode):
    """Context in which the functions of `torch.nn.init` do nothing: weights are whatever was in memory.

    Only for the meta device, and for models whose tensors are then all loaded from a checkpoint *and checked*.
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
