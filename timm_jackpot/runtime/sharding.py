"""FSDP2: what is trained, its gradients and momenta are split over processes; frozen weights stay whole on each."""

from __future__ import annotations

import os
from collections.abc import Iterator

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils.parametrize import ParametrizationList

FSDP = "ACCELERATE_USE_FSDP"


def asks_to_shard() -> bool:
    """Whether the launcher was given --use_fsdp."""
    return os.environ.get(FSDP, "").lower() in ("1", "true", "yes")


def shards(accelerator: Accelerator) -> bool:
    """Whether this run splits what it trains over processes."""
    return asks_to_shard() and accelerator.num_processes > 1


def shard_trained(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace the parameters of `model` that require gradients by shards along dim 0, in place.

    A block is gathered while it runs: each item of a Sequential or ModuleList that has such parameters. There is no way
    back; what is shared with `model` and frozen stays as it was. `accelerator.prepare` must not see the model.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    for parameter in model.parameters():
        if parameter.requires_grad:  # FSDP2 takes no other memory format
            parameter.data = parameter.data.contiguous()
    for block in reversed(list(blocks_of(model))):  # the inner ones first
        if any(parameter.requires_grad for parameter in block.parameters()) and not is_sharded(block):
            fully_shard(block, mesh=mesh, ignored_params=frozen)
    fully_shard(model, mesh=mesh, ignored_params=frozen)


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The items of its Sequentials and ModuleLists; a block comes before those within it."""
    for owner in model.modules():
        if isinstance(owner, (nn.Sequential, nn.ModuleList)) and not isinstance(owner, ParametrizationList):
            yield from owner


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, which shares its memory; a plain tensor as it is."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process; a plain tensor as it is. Every process must call this."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor
