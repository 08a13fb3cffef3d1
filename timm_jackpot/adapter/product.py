"""weight ⊙ mask on a CPU, in memory that the gradient of the scores takes after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Product:
    """h(s) ⊙ w, as it was when weight, mask and it had these versions (torch counts writes in place, but not those
    through `.data` or numpy).

    Args:
        memory: where it is written; fresh memory if None.
    """

    def __init__(self, weight: Tensor, mask: Tensor, memory: Tensor | None) -> None:
        # Outside inference mode, whose tensors no later training step could use.
        with torch.inference_mode(mode=False), torch.no_grad():
            value = torch.empty_like(weight) if memory is None else memory
            value.copy_(mask.view(torch.uint8)).mul_(weight)  # twice as fast as weight * mask, whose bools torch widens
        self.value = value
        self.readers = 0  # graphs whose backward pass is still to come
        self._weight, self._mask = weight, mask
        self._versions = self._versions_now()

    def is_current(self, weight: Tensor, mask: Tensor) -> bool:
        return self._weight is weight and self._mask is mask and self._versions == self._versions_now()

    def _versions_now(self) -> tuple[int, int, int]:
        return self._weight._version, self._mask._version, self.value._version


class ReusedMemory:
    """The product of one weight with its mask, and the memory that it shares with the gradient of the scores.

    Fresh memory costs a CPU several times what a multiplication does. A product is dead when the backward pass has
    read it for the last time, just when ∂L/∂s wants memory of the same shape; and that is dead after the optimizer's
    step, before the next product is made. Where a graph still reads the product, or an earlier gradient has not been
    used up, memory is fresh.
    """

    def __init__(self) -> None:
        self._product: Product | None = None
        self._spare: list[Tensor] = []
        self._lent: int | None = None  # address of what the gradient took

    def __reduce__(self) -> tuple[type[ReusedMemory], tuple[()]]:
        return ReusedMemory, ()  # a copy's tensors count their versions anew

    def product(self, weight: Tensor, mask: Tensor) -> Product:
        """The product that was made last if it is current, else a new one."""
        product = self._product
        if product is None or not product.is_current(weight, mask):
            if product is not None and product.readers == 0:
                self._spare.append(product.value)
            memory = self._spare.pop() if self._spare else None
            if memory is not None and memory.dtype != weight.dtype:  # of another weight, in this one's place
                memory = None
            product = self._product = Product(weight, mask, memory)
        return product

    def for_gradient(self, product: Product, scores: nn.Parameter) -> Tensor | None:
        """The product's memory, unless a graph still reads it or there is a gradient already, to add to."""
        in_use = product is not self._product or product.readers > 0 or scores.grad is not None
        if in_use or torch.is_grad_enabled():  # a gradient to be differentiated itself
            return None
        self._product, self._lent = None, product.value.data_ptr()
        return product.value.detach()

    def take_back(self, scores: nn.Parameter) -> None:
        """What was lent, out of `scores.grad`, which is None then."""
        gradient = scores.grad
        if gradient is not None and gradient.data_ptr() == self._lent:
            scores.grad, self._lent = None, None
            self._spare.append(gradient)
