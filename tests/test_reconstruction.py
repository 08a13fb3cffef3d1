"""Masks by layer-wise reconstruction, against the losses that they should lower, computed from outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_jackpot.base import maskable_weights
from timm_jackpot.criteria import magnitude, reconstruction
from timm_jackpot.data import Batch
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import keep_largest
from timm_jackpot.search import SearchConfig, search_jackpot

Masks = Mapping[str, Tensor]


def batch_of(*shape: int, n: int = 40) -> Batch:
    return Batch(torch.randn(n, *shape), torch.zeros(n, dtype=torch.int64))


def halves(model: nn.Module) -> dict[str, int]:
    return {name: weight.numel() // 2 for name, weight in weights_of(model).items()}


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.dim() > 1}


def masks_of(model: nn.Module, batch: Batch, kept: Mapping[str, int]) -> dict[str, Tensor]:
    scores = reconstruction(model, weights_of(model), [batch], kept)
    return {name: keep_largest(values, kept[name]) for name, values in scores.items()}


def all_masks(like: Tensor) -> list[Tensor]:
    """Every mask with as many weights."""
    chosen = itertools.combinations(range(like.numel()), int(like.sum()))
    return [
        torch.zeros(like.numel(), dtype=torch.bool).index_fill(0, torch.tensor(c), True).view_as(like) for c in chosen
    ]


def error(y: Tensor, masked: Tensor) -> float:
    """Σ E(y − y')², channels last."""
    return float((y - masked).square().flatten(0, -2).mean(0).sum())


def unexplained(y: Tensor, masked: Tensor) -> float:
    """The variance of y that y' leaves unexplained, up to scale and shift in each channel."""
    total = 0.0
    for one, other in zip(y.flatten(0, -2).T.double(), masked.flatten(0, -2).T.double(), strict=True):
        basis = torch.stack((other, torch.ones_like(other)), 1)
        fitted = basis @ torch.linalg.lstsq(basis, one[:, None]).solution
        slope = torch.cov(torch.stack((one, other)))[0, 1]
        left = one - (fitted[:, 0] if slope > 0 else one.mean())  # batch norm does not flip a channel
        total += float(left.square().mean())
    return total


def assert_nearly_best(weight: Tensor, mask: Tensor, loss: Callable[[Tensor], float]) -> None:
    """Better than the magnitude mask, and among the best hundredth of all masks with as many weights."""
    start, found = loss(keep_largest(weight.abs(), int(mask.sum()))), loss(mask)
    assert found < start
    losses = sorted(map(loss, all_masks(mask)))
    assert found <= losses[len(losses) // 100]


def uneven(*shape: int, n: int = 60) -> Batch:
    """Images whose channels differ in scale, and depend on each other."""
    batch = batch_of(*shape, n=n)
    batch.images[:, 1:] += 0.7 * batch.images[:, :-1]
    return Batch(batch.images * torch.linspace(0.3, 2, shape[0]).view(-1, *[1] * (len(shape) - 1)), batch.labels)


@pytest.mark.parametrize("groups", [1, 2])
def test_without_batch_norm_the_error_of_a_convolution_is_low(groups: int) -> None:
    conv = nn.Conv2d(2 * groups, 2, (1, 3), stride=2, padding=1, dilation=2, groups=groups)
    batch = uneven(2 * groups, 7, 7)
    mask = masks_of(nn.Sequential(conv), batch, halves(nn.Sequential(conv)))["0.weight"]

    def loss(m: Tensor) -> float:
        out = F.conv2d(batch.images, conv.weight * m, conv.bias, 2, 1, 2, groups)
        return error(conv(batch.images).movedim(1, -1), out.movedim(1, -1))

    with torch.no_grad():
        assert_nearly_best(conv.weight, mask, loss)


def test_with_batch_norm_a_layer_explains_the_dense_one_up_to_scale_and_shift() -> None:
    model = nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2))
    batch = uneven(6)
    mask = masks_of(model, batch, halves(model))["0.weight"]
    with torch.no_grad():
        dense = model[0](batch.images)
        assert_nearly_best(
            model[0].weight, mask, lambda m: unexplained(dense, F.linear(batch.images, model[0].weight * m))
        )


def test_a_layer_makes_up_for_the_masks_before_it() -> None:
    """The second layer's inputs are those under the first mask, normalized by the statistics of this batch."""
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    nn.init.uniform_(model[1].running_var, 0.5, 2.0)
    batch = uneven(6)
    masks = masks_of(model, batch, halves(model))
    with torch.no_grad():
        hidden = F.linear(batch.images, model[0].weight * masks["0.weight"], model[0].bias)
        hidden = F.batch_norm(hidden, None, None, model[1].weight, model[1].bias, training=True).relu()
        dense, (second, bias) = model(batch.images), (model[3].weight, model[3].bias)
        assert_nearly_best(second, masks["3.weight"], lambda m: error(dense, F.linear(hidden, second * m, bias)))


def test_scores_are_the_magnitudes_in_another_order() -> None:
    """So that a search that starts from them finds the distances that it is tuned for."""
    model, kept = nn.Sequential(nn.Linear(6, 5)), {"0.weight": 12}
    batch = uneven(6)
    scores = reconstruction(model, weights_of(model), [batch], kept)["0.weight"]
    sizes, mask = model[0].weight.detach().abs(), masks_of(model, batch, kept)["0.weight"]
    assert scores.flatten().sort().values.tolist() == sizes.flatten().sort().values.tolist()
    assert not torch.equal(mask, keep_largest(sizes, 12))
    for part in (mask, ~mask):
        assert scores[part].argsort().tolist() == sizes[part].argsort().tolist()


@pytest.mark.parametrize("kept", [0, 30])
def test_nothing_is_swapped_where_all_or_no_weights_are_kept(kept: int) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    assert int(masks_of(model, batch_of(6), {"0.weight": kept})["0.weight"].sum()) == kept


@pytest.mark.parametrize("value", [0.0, 0.5, 1000.0])
def test_it_ends_where_outputs_do_not_vary(value: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    batch = Batch(torch.full((4, 3, 5, 5), value), torch.zeros(4, dtype=torch.int64))
    kept = halves(model)
    assert {name: int(mask.sum()) for name, mask in masks_of(model, batch, kept).items()} == kept


def test_the_mask_wins_where_magnitudes_are_tied() -> None:
    model = nn.Sequential(nn.Linear(32, 32))
    batch = uneven(32)
    rounded = model[0].weight.data.mul_(20).round_().div_(20)  # a few levels
    scores = reconstruction(model, weights_of(model), [batch], {"0.weight": 512})["0.weight"]
    mask = keep_largest(scores, 512)
    assert float(scores[mask].min()) > float(scores[~mask].max())
    with torch.no_grad():
        dense = F.linear(batch.images, rounded)
        found, start = (
            error(dense, F.linear(batch.images, rounded * m)) for m in (mask, keep_largest(rounded.abs(), 512))
        )
    assert found < 0.7 * start


def test_norms_of_the_batch_see_one_half_at_a_time() -> None:
    """A norm without running statistics normalizes each network by itself."""
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU(), nn.Linear(6, 2))
    batch = uneven(6)
    masks = masks_of(model, batch, halves(model))
    with torch.no_grad():
        hidden = model[2](model[1](F.linear(batch.images, model[0].weight * masks["0.weight"], model[0].bias)))
        dense, (second, bias) = model(batch.images), (model[3].weight, model[3].bias)
        assert_nearly_best(second, masks["3.weight"], lambda m: error(dense, F.linear(hidden, second * m, bias)))


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(8193, 2, 1)], ids=str
)
def test_other_layers_keep_their_magnitude_mask(conv: nn.Module) -> None:
    model = nn.Sequential(conv)
    channels = conv.in_channels
    mask = masks_of(model, batch_of(channels, 5, 5, n=4), halves(model))["0.weight"]
    assert torch.equal(mask, keep_largest(conv.weight.abs(), halves(model)["0.weight"]))


def test_one_image_and_patterns_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    with pytest.raises(ConfigError, match="needs at least two training images"):
        reconstruction(model, weights_of(model), [batch_of(6, n=1)], {"0.weight": 15})
    pattern = SearchConfig(criterion="reconstruction", allocation="2:4", steps=1, output=str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="reconstruction keeps layer counts, not patterns: replace --allocation 2:4"):
        search_jackpot(pattern)


def test_a_weight_that_is_not_used_as_it_is_keeps_its_magnitude_mask() -> None:
    class Standardized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight - self.weight.mean(), self.bias)

    model = nn.Sequential(Standardized(6, 5))
    weights = weights_of(model)
    scores = reconstruction(model, weights, [batch_of(6)], {"0.weight": 15})["0.weight"]
    assert torch.equal(keep_largest(scores, 15), keep_largest(magnitude(weights)["0.weight"], 15))


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_mambaout", "test_vit_relpos"])
def test_every_kind_of_network_has_its_masks_refined(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    weights = maskable_weights(model).weights
    kept = {layer: weight.numel() // 50 for layer, weight in weights.items()}
    batch = Batch(torch.randn(2, *model.pretrained_cfg["input_size"]), torch.tensor([0, 1]))
    scores = reconstruction(model, weights, [batch], kept)
    assert all(values.isfinite().all() for values in scores.values())
    changed = [layer for layer, values in scores.items() if not torch.equal(values, magnitude(weights)[layer])]
    assert len(changed) > len(weights) / 2
