from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn


def working_copy(model: nn.Module, *, own: Collection[str] = ()) -> nn.Module:
    """A copy of a model to work on: it shares the parameters, by object, and owns its buffers and modules.

    Sharing costs no memory, and follows the model to another device.

    Args:
        own: names of parameters that are copied too, because they are going to change.
    """
    shared = {id(parameter): parameter for name, parameter in model.named_parameters() if name not in own}
    return copy.deepcopy(model, memo=dict(shared))  # pyright: ignore[reportArgumentType]
