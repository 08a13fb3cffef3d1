from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from timm_jackpot.criteria._gradients import differentiable, hessian_product
from timm_jackpot.data import Batch


def obd(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Sequence[Batch], *, probes: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    """½ · diag(H) ⊙ w², H averaged over `batches` (LeCun et al. 1989): the loss that a weight's removal costs.

    diag(H) ≈ 1/K Σₖ zₖ ⊙ H zₖ with K probes zₖ of ±1: rows of a Hadamard matrix, repeated along the weights, times one
    random sign for each weight (Bekas et al. 2007). Rows are orthogonal, so that a weight's estimate only sees the
    curvature that it shares with every K-th other one, and is exact once there are as many probes as weights.

    Args:
        model, weights, batches: as in `snip`.
        probes: K, a power of two; each costs a forward and two backward passes over every batch.
        seed: of the signs, drawn on the CPU.
    """
    assert probes > 0
    assert probes & (probes - 1) == 0, "a Hadamard matrix of this kind has 2ⁿ rows"
    generator = torch.Generator().manual_seed(seed)
    signs = [
        torch.randint(2, w.shape, generator=generator).mul_(2).sub_(1).to(w.device, w.dtype) for w in weights.values()
    ]
    columns, first = [], 0
    for w in weights.values():
        columns.append(torch.arange(first, first + w.numel(), device=w.device).reshape(w.shape) % probes)
        first += w.numel()
    diagonal = [w.new_zeros(w.shape) for w in weights.values()]
    with differentiable(model, weights) as parameters:
        for row in range(probes):
            z = [sign * _hadamard(row, column) for sign, column in zip(signs, columns, strict=True)]
            for batch in batches:
                products = hessian_product(model, parameters, batch, z)
                for total, u, hu in zip(diagonal, z, products, strict=True):
                    total += u * hu / (probes * len(batches))
    return {name: 0.5 * h * w.detach().square() for (name, w), h in zip(weights.items(), diagonal, strict=True)}


def _hadamard(row: int, columns: Tensor) -> Tensor:
    """Entries of Sylvester's Hadamard matrix: −1 to the number of bits that row and column share."""
    shared = columns & row
    for shift in (16, 8, 4, 2, 1):
        shared = shared ^ (shared >> shift)
    return 1 - 2 * (shared & 1)
