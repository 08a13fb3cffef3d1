"""FSDP2: what is trained, its gradients and momenta are split over processes; frozen weights stay whole on each."""

from __future__ import annotations

import os
from collections import Counter

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils.parametrize import ParametrizationList

FSDP = "ACCELERATE_USE_FSDP"


def asks_to_shard() -> bool:
    """Whether the launcher was given --use_fsdp, which sets a variable."""
    return os.environ.get(FSDP, "").lower() in ("1", "true", "yes")


def splits_trained(accelerator: Accelerator) -> bool:
    """Whether this run splits what it trains over processes."""
    return asks_to_shard() and accelerator.num_processes > 1


def shard_trained(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace the parameters of `model` that require gradients by shards along dim 0, in place.

    The parameters of a block are gathered while it runs. There is no way back; what is frozen stays as it was, and may
    be shared with other models. `accelerator.prepare` must not see the model.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    for parameter in model.parameters():
        if parameter.requires_grad:  # FSDP2 takes no other memory format
            parameter.data = parameter.data.contiguous()
    for block in blocks_of(model):
        if any(parameter.requires_grad for parameter in block.parameters()):
            fully_shard(block, mesh=mesh, ignored_params=frozen)
    fully_shard(model, mesh=mesh, ignored_params=frozen)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The items of its Sequentials and ModuleLists that run as a whole; those within a block come before it.

    A block with a module that also belongs to another one is left out: it can be gathered for one of them only.
    """
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    blocks = [
        block
        for owner in model.modules()
        if isinstance(owner, (nn.Sequential, nn.ModuleList)) and not isinstance(owner, ParametrizationList)
        for block in owner
        if not isinstance(block, (nn.ModuleList, nn.ModuleDict)) and all(uses[id(m)] == 1 for m in block.modules())
    ]
    return blocks[::-1]


def gathered_at_once(model: nn.Module) -> int:
    """How many parameters the largest block has, or what is in no block, without those of the blocks within."""
    taken: set[int] = set()
    sizes = []
    for block in (*blocks_of(model), model):
        own = {id(parameter): parameter.numel() for parameter in block.parameters() if id(parameter) not in taken}
        taken |= own.keys()
        sizes.append(sum(own.values()))
    return max(sizes)


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, which shares its memory; a plain tensor as it is."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process; a plain tensor as it is. Every process must call this."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor
