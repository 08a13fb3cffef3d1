"""Layers whose weights are stored and multiplied in compressed sparse rows."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

# With more, oneDNN's dense product is faster even for single images (RESULTS.md, "Before you search").
_DENSEST = 0.15


class SparseRows(nn.Module):
    """A weight [out, in] as the values, columns and row starts of its entries that are not zero."""

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, kept: int) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape[:2]
        self.register_buffer("crow_indices", torch.zeros(self.out_features + 1, dtype=torch.int32))
        self.register_buffer("col_indices", torch.zeros(kept, dtype=torch.int32))
        self.register_buffer("values", torch.zeros(kept))
        self.bias = layer.bias

    def matrix(self, *, check: bool = False) -> Tensor:
        """The weight as a sparse tensor; `check` raises RuntimeError where its parts do not fit together."""
        # Made at each call, which costs microseconds: safetensors does not hold sparse tensors.
        parts = self.crow_indices, self.col_indices, self.values
        return torch.sparse_csr_tensor(*parts, (self.out_features, self.in_features), check_invariants=check)


class SparseLinear(SparseRows):
    """`nn.Linear` for inference: [..., in] → [..., out]."""

    def forward(self, x: Tensor) -> Tensor:
        products = (self.matrix() @ x.reshape(-1, self.in_features).t()).t().reshape(*x.shape[:-1], self.out_features)
        return products if self.bias is None else products + self.bias


class SparseConv2d(SparseRows):
    """A 1×1 `nn.Conv2d` for inference: [b, in, h, w] → [b, out, h / stride, w / stride]."""

    def __init__(self, layer: nn.Conv2d, kept: int) -> None:
        super().__init__(layer, kept)
        self.stride = layer.stride

    def forward(self, x: Tensor) -> Tensor:
        x, matrix = x[:, :, :: self.stride[0], :: self.stride[1]], self.matrix()
        products = torch.stack([matrix @ image for image in x.flatten(2)]).view(len(x), -1, *x.shape[2:])
        return products if self.bias is None else products + self.bias[:, None, None]


def sparse_layer(layer: nn.Module, kept: int) -> nn.Module | None:
    """An empty sparse layer in place of this one with `kept` weights; None if there is no such layer."""
    if type(layer) is nn.Linear:
        return SparseLinear(layer, kept)
    if (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (1, 1)
        and layer.groups == 1
        and layer.padding in ((0, 0), "valid")
    ):
        return SparseConv2d(layer, kept)
    return None


def to_sparse_rows(network: nn.Module, images: Tensor) -> tuple[nn.Module, list[str]]:
    """A copy with sparse layers where that is faster, and their names.

    Args:
        images: [b, c, h, w], to see which layers are called: some networks read a weight without its layer.
    """
    network, names = copy.deepcopy(network), []
    called = _called(network, images[:1])
    for name, layer in list(network.named_modules()):
        if layer not in called:
            continue
        weight = getattr(layer, "weight", None)
        kept = int(weight.count_nonzero()) if isinstance(weight, Tensor) else 0
        if not isinstance(weight, Tensor) or kept > _DENSEST * weight.numel():
            continue
        if (sparse := sparse_layer(layer, kept)) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls its sparse rows a beta
                rows = weight.detach().flatten(1).to_sparse_csr()
            for key, tensor in sparse.named_buffers():
                tensor.copy_(getattr(rows, key)())
            network.set_submodule(name, sparse)
            names.append(name)
    return network, names


def _called(network: nn.Module, images: Tensor) -> set[nn.Module]:
    found: set[nn.Module] = set()
    handles = [m.register_forward_pre_hook(lambda module, _: found.add(module)) for m in network.modules()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
