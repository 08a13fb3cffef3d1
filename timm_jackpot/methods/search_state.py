"""Save and restore the tensors of an unfinished search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_jackpot.adapter import ScoreAdapter
from timm_jackpot.errors import ConfigError
from timm_jackpot.training import optimizer_tensors, random_state, restore_optimizer, restore_random_state


class SearchState:
    """Everything a search changes: scores, thresholds, other trained parameters, buffers, optimizer, generators."""

    def __init__(
        self,
        model: nn.Module,
        adapter: ScoreAdapter,
        trained: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
    ) -> None:
        self._optimizer, self._accelerator = optimizer, accelerator
        self._live: dict[str, Tensor] = {f"scores.{name}": layer.scores for name, layer in adapter.items()}
        self._live |= {f"threshold.{name}": layer.threshold for name, layer in adapter.items()}
        self._live |= {f"trained.{i}": parameter for i, parameter in enumerate(trained)}
        self._live |= {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}

    def tensors(self) -> dict[str, Tensor]:
        tensors = {**self._live, **optimizer_tensors(self._optimizer), **random_state(self._accelerator.device)}
        scaler = self._accelerator.scaler
        if scaler is not None:
            tensors |= {f"scaler.{key}": torch.tensor(value) for key, value in scaler.state_dict().items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises: ConfigError: if `tensors` come from another search, or from another version of this package."""
        if missing := sorted(self._live.keys() - tensors.keys()):
            raise ConfigError(
                f"the checkpoint lacks {missing[0]}: it comes from another search or another version; start over"
            )
        for name, tensor in self._live.items():
            tensor.copy_(tensors[name])
        restore_optimizer(self._optimizer, tensors)
        restore_random_state(tensors, self._accelerator.device)
        scaler = self._accelerator.scaler
        if scaler is not None:
            scaler.load_state_dict({key: tensors[f"scaler.{key}"].item() for key in scaler.state_dict()})
