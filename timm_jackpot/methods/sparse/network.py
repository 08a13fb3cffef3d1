"""Weights with true zeros, kept zero by an optimizer hook that shows methods the dense gradient first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Moment(NamedTuple):
    """What a method sees before or after an optimizer step, by weight name."""

    step: int  # steps done
    weights: Mapping[str, Tensor]  # zero outside the mask
    masks: Mapping[str, Tensor]  # boolean
    gradients: Mapping[str, Tensor]  # before a step dense, that is, also of removed weights


Update = Callable[[Moment], Mapping[str, Tensor] | None]  # returns the masks that change


class SparseWeights:
    """Keeps the weights outside their masks at zero while `optimizer` trains them.

    Before each optimizer step the dense gradients go to `update`, which may return other masks. Then gradients,
    weights and the optimizer's averages are set to zero outside the masks. Averages start from zero where weights grow.

    Args:
        weights: the sparse weights by name; they are masked at once, in place.
        after_step: called after each optimizer step; it may return other masks too, and change weights in place.
        first_step: steps done before a resumed run goes on.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        masks: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        update: Update | None = None,
        *,
        after_step: Update | None = None,
        first_step: int = 0,
    ) -> None:
        self.weights = dict(weights)
        self.masks = {name: masks[name].to(weight.device, copy=True) for name, weight in weights.items()}
        self._optimizer, self._update, self._step = optimizer, update, first_step
        self._zero_outside_masks()
        optimizer.register_step_pre_hook(self._before_step)
        if after_step is not None:
            optimizer.register_step_post_hook(lambda *_: self._let_change(after_step))

    @torch.no_grad()
    def replace_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Change some masks, and set weights and averages to zero outside them."""
        for name, mask in masks.items():
            self.masks[name].copy_(mask)  # in place: checkpoints hold this tensor
        self._zero_outside_masks()
        for weight in self.weights.values():
            for average in self._optimizer.state[weight].values():
                if isinstance(average, Tensor) and average.shape == weight.shape:
                    average.masked_fill_(weight == 0, 0.0)  # also of weights that went and came back in one update

    def forget_averages(self) -> None:
        """Let the optimizer start anew, without momentum."""
        self._optimizer.state.clear()

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        if self._update is not None:
            self._let_change(self._update)
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.masks[name])
        self._step += 1

    @torch.no_grad()
    def _let_change(self, update: Update) -> None:
        gradients = {n: w.grad if w.grad is not None else torch.zeros_like(w) for n, w in self.weights.items()}
        changed = update(Moment(self._step, self.weights, self.masks, gradients))
        if changed:
            self.replace_masks(changed)

    @torch.no_grad()
    def _zero_outside_masks(self) -> None:
        for name, weight in self.weights.items():
            weight.masked_fill_(~self.masks[name], 0.0)
