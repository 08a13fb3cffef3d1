"""The tensors of an unfinished run: what training changes, saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from timm_jackpot.errors import ConfigError
from timm_jackpot.runtime.sharding import local


class RunTensors:
    """Everything that a run changes: trained tensors, the model's buffers, optimizer, random generators, loss scaler.

    Args:
        trained: gives the trained tensors and what belongs to them (thresholds), by names of their own. It is called
            each time: on several CPU processes, Accelerate replaces a model's buffers.
    """

    def __init__(
        self,
        trained: Callable[[], Mapping[str, Tensor]],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
    ) -> None:
        self._trained, self._model = trained, model
        self._optimizer, self._accelerator = optimizer, accelerator

    def _live(self) -> dict[str, Tensor]:
        return {**self._trained(), **{f"buffer.{name}": buffer for name, buffer in self._model.named_buffers()}}

    def current(self) -> dict[str, Tensor]:
        tensors = {
            **_by_shard({**self._live(), **_optimizer_tensors(self._optimizer)}),
            **_random_state(self._accelerator.device),
        }
        scaler = self._accelerator.scaler
        if scaler is not None:
            tensors |= {f"scaler.{key}": torch.tensor(value) for key, value in scaler.state_dict().items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises: ConfigError: if `tensors` come from another run, or from another version of this package."""
        live = _by_shard(self._live())
        if missing := sorted(live.keys() - tensors.keys()):
            with_fsdp = any(name.startswith("shard.") for name in tensors)
            if with_fsdp != missing[0].startswith("shard."):
                word = "with" if with_fsdp else "without"
                raise ConfigError(f"the checkpoint was made {word} FSDP: resume {word} it")
            raise ConfigError(
                f"the checkpoint lacks {missing[0]}: it comes from another run or another version; start over"
            )
        for name, tensor in live.items():
            tensor.copy_(tensors[name])
        _restore_optimizer(self._optimizer, tensors)
        _restore_random_state(tensors, self._accelerator.device)
        scaler = self._accelerator.scaler
        if scaler is not None:
            scaler.load_state_dict({key: tensors[f"scaler.{key}"].item() for key in scaler.state_dict()})


def _by_shard(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shards instead of sharded tensors, under names by which a checkpoint tells that each rank has its own."""
    return {f"shard.{name}" if isinstance(tensor, DTensor) else name: local(tensor) for name, tensor in tensors.items()}


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's random generators on this rank."""
    states = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["random.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["random.cuda"], device)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state tensors, such as momenta, by parameter index."""
    return {
        f"optimizer.{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if value is not None
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if (plain := name.removeprefix("shard.")).startswith("optimizer."):
            _, index, key = plain.split(".", 2)
            of = parameters[int(index)]
            if name != plain:
                tensor = DTensor.from_local(tensor, of.device_mesh, of.placements, shape=of.shape, stride=of.stride())
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
