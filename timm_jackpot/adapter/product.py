"""weight ⊙ mask on a CPU, in memory that the gradient of the scores takes after it."""

from __future__ import annotations

import torch
from torch import Tensor


class Product:
    """h(s) ⊙ w, as it was when weight, mask and it had these versions.

    torch counts most writes in place, but not those through `.data` or numpy, of fused optimizers or collectives.
    """

    @torch.no_grad()
    def __init__(self, weight: Tensor, mask: Tensor, memory: Tensor) -> None:
        memory.copy_(mask.view(torch.uint8)).mul_(weight)  # weight * mask takes half as long again: it widens bools
        self.value = memory
        self._weight, self._mask = weight, mask
        self._versions = self._versions_now()

    def is_current(self, weight: Tensor, mask: Tensor) -> bool:
        return self._weight is weight and self._mask is mask and self._versions == self._versions_now()

    def memory_for_gradient(self) -> Tensor | None:
        """The product's memory, unless somebody still holds it; once written to, the product is not current."""
        if torch.is_grad_enabled():  # a gradient that is to be differentiated itself
            return None
        return self.value.detach() if _is_ours_alone(self.value) else None

    def _versions_now(self) -> tuple[int, int, int]:
        return self._weight._version, self._mask._version, self.value._version


class ReusedMemory:
    """The product of one weight with its mask, and the memory that it shares with the gradient of the scores.

    Fresh memory costs a CPU several times what a multiplication does. After a product's last reader in the backward
    pass ∂L/∂s wants memory of the same shape, and after the optimizer's step that is free for the next product. No
    memory is written to while anybody else holds it, be it a graph, a cache or a caller: the count of its holders
    tells. For one thread.
    """

    def __init__(self) -> None:
        self._product: Product | None = None
        self._memory: list[Tensor] = []  # at most two: a product, and a gradient that others are added to

    def __reduce__(self) -> tuple[type[ReusedMemory], tuple[()]]:
        return ReusedMemory, ()  # a copy's tensors count their versions anew

    def product(self, weight: Tensor, mask: Tensor) -> Product:
        """The product that was made last if it is current, else a new one."""
        product = self._product
        if product is None or not product.is_current(weight, mask):
            product = self._product = Product(weight, mask, self._memory_like(weight))
        return product

    def _memory_like(self, weight: Tensor) -> Tensor:
        for memory in self._memory:
            same = memory.dtype == weight.dtype and memory.stride() == weight.stride()
            if same and _is_ours_alone(memory):
                return memory
        with torch.inference_mode(mode=False):  # whose tensors no later training step could use
            fresh = torch.empty_like(weight, requires_grad=False)
        self._memory = [*self._memory[-1:], fresh]
        return fresh


def _is_ours_alone(tensor: Tensor) -> bool:
    """Whether no other tensor has the same storage, in Python or in a graph of autograd."""
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) == 2  # of `tensor`, and of the handle `storage`
