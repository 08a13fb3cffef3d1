"""One mask in one picture: its largest layer, and the magnitudes of the weights kept and removed there."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from timm_jackpot.masks import MaskSet
from timm_jackpot.plots.style import BLUE, ORANGE, finish, new_figure, to_png

_SHOWN = (64, 96)  # rows and columns of the layer in the picture, at most
_BINS = 60


def mask_figure(masks: MaskSet, weights: Mapping[str, torch.Tensor]) -> bytes:
    """The first rows and columns of the largest layer's mask beside a histogram of that layer's weights, as a PNG.

    Args:
        weights: the base's maskable weights, by the names in `masks`.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    name, mask = max(masks.items(), key=lambda pair: pair[1].numel())
    magnitudes = weights[name].detach().abs().cpu().float().flatten()
    kept = int(mask.sum())
    figure = new_figure(11, 4)
    figure.suptitle(f"{name.removesuffix('.weight')}, the largest layer: {kept:,} of {mask.numel():,} weights kept")
    view, counts = figure.subplots(1, 2)

    matrix = mask.flatten(1)[: _SHOWN[0], : _SHOWN[1]]
    from matplotlib.colors import ListedColormap

    view.imshow(
        matrix.numpy(), cmap=ListedColormap(["#EDEDED", BLUE]), vmin=0, vmax=1, interpolation="nearest", aspect="auto"
    )
    view.set_xlabel(f"weights of one output (first {matrix.shape[1]} of {mask[0].numel():,}); blue: kept")
    view.set_ylabel(f"outputs (first {matrix.shape[0]} of {mask.shape[0]:,})")

    chosen = mask.flatten()
    parts = [magnitudes[chosen].numpy(), magnitudes[~chosen].numpy()]
    counts.hist(parts, bins=_BINS, stacked=True, color=[BLUE, "#BDBDBD"], label=["kept", "removed"])
    if 0 < kept < len(magnitudes):
        cut = float(magnitudes.kthvalue(len(magnitudes) - kept).values)
        counts.axvline(cut, color=ORANGE, linestyle="--", linewidth=1.5, label="threshold of the magnitude mask")
    counts.set_xlabel("magnitude of the weight")
    counts.set_ylabel("weights")
    finish(counts, legend="above", columns=3)
    return to_png(figure)
