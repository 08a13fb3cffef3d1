"""Swaps between the kept and the removed weights of one layer, on second moments of its inputs and outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_GAIN = 1e-6  # of Σ E y²: what a round must gain
_RIDGE = 1e-6  # of E y², added to var(y'): no row gains by vanishing


class Moments(NamedTuple):
    """Second moments over images and positions, in float64 on the CPU. If outputs are rescaled, two are centered."""

    inputs: Tensor  # of x', E x' x'ᵀ [groups, d, d], maybe centered
    outputs: Tensor  # of y with x', E y x'ᵀ [o, d], maybe centered; y without bias, which y' has too
    squares: Tensor  # of y, E y² [o]


def refine(weight: Tensor, mask: Tensor, moments: Moments, *, rescaled: bool) -> Tensor:
    """Add weights to a mask and remove as many others, until a round no longer lowers the loss; returns the mask.

    The loss of a row, that is, of an output, is E(y − y')², or if `rescaled`, the variance of y that y' does not
    explain up to scale. Rows do not affect each other: a round adds the best weight of the rows that gain most, then
    removes the best one of those that lose least, which may be others.

    Args:
        weight: [o, d], in float64 on the CPU.
        mask: [o, d], boolean, on the CPU; it is not changed.
    """
    rows = _Rows(weight, mask.clone(), moments, rescaled=rescaled)
    inf, least = torch.inf, _LEAST_GAIN * float(moments.squares.sum())
    swaps = len(rows.weight)
    while swaps:
        changes = rows.changes()
        adding, column = torch.where(rows.mask, inf, changes).min(1)
        removing = torch.where(rows.mask, changes, inf).amin(1)
        helpful = (
            adding.sort().values + removing.sort().values < 0
        )  # the best addition with the best removal, and so on
        swaps = min(swaps, int(helpful.sum()))
        before = float(rows.loss().sum())
        added = adding.argsort()[:swaps]
        rows.toggle(added, column[added])
        removing, other = torch.where(rows.mask, rows.changes(), inf).min(1)
        removed = removing.argsort()[:swaps]
        rows.toggle(removed, other[removed])
        if not float(rows.loss().sum()) < before - least:
            rows.toggle(removed, other[removed])
            rows.toggle(added, column[added])
            swaps //= 2
    return rows.mask


class _Rows:
    """The rows of a weight [o, d] under a mask, and how the loss of each would change with each of its weights.

    The loss of a row is E(y − y')² − E y², or if `rescaled`, −cov(y, y')² / var(y').
    """

    def __init__(self, weight: Tensor, mask: Tensor, moments: Moments, *, rescaled: bool) -> None:
        self.weight, self.mask = weight, mask
        self._inputs, self._outputs, self._rescaled = moments.inputs, moments.outputs, rescaled
        self._ridge = (_RIDGE * moments.squares).clamp_min(torch.finfo(moments.squares.dtype).tiny)
        groups, d = moments.inputs.shape[:2]
        self._group = torch.arange(len(weight)) // (len(weight) // groups)
        self._diagonal = moments.inputs.diagonal(dim1=1, dim2=2)[self._group]
        kept = weight * mask
        self._products = (kept.view(groups, -1, d) @ moments.inputs).flatten(0, 1)  # (m ⊙ w)ᵀ E x' x'ᵀ
        self._with_dense = (kept * moments.outputs).sum(1)  # E y y'
        self._square = (kept * self._products).sum(1)  # E y'²

    def loss(self) -> Tensor:
        """[o]"""
        return self._loss(self._with_dense[:, None], self._square[:, None])[:, 0]

    def changes(self) -> Tensor:
        """How the loss of its row changes if a weight is removed, or added; [o, d]."""
        step = torch.where(self.mask, -self.weight, self.weight)
        with_dense = self._with_dense[:, None] + step * self._outputs
        square = self._square[:, None] + 2 * step * self._products + step.square() * self._diagonal
        return self._loss(with_dense, square) - self.loss()[:, None]

    def toggle(self, rows: Tensor, columns: Tensor) -> None:
        """Remove or add one weight in each of some rows."""
        step = torch.where(self.mask[rows, columns], -1.0, 1.0) * self.weight[rows, columns]
        self._with_dense[rows] += step * self._outputs[rows, columns]
        self._square[rows] += 2 * step * self._products[rows, columns]
        self._square[rows] += step.square() * self._diagonal[rows, columns]
        self._products[rows] += step[:, None] * self._inputs[self._group[rows], columns]
        self.mask[rows, columns] = ~self.mask[rows, columns]

    def _loss(self, with_dense: Tensor, square: Tensor) -> Tensor:
        if not self._rescaled:
            return square - 2 * with_dense
        return -with_dense.clamp_min(0).square() / (square.clamp_min(0) + self._ridge[:, None])
