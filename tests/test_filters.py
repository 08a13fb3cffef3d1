"""Whole filters: which can go, their gradient, exact counts, artifacts, and smaller networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from timm_jackpot import JackpotConfig, export_jackpot, from_pretrained, load_exported
from timm_jackpot.adapter import adapter_of, attach, detach
from timm_jackpot.artifact import read_artifact
from timm_jackpot.base import Base, Filters, load_base, maskable_weights, removable_filters
from timm_jackpot.cli import parse
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.masks import filter_sums, keep_largest, keeps_filters, kept_filters
from timm_jackpot.search import SearchConfig, SearchResult, config_of, search_jackpot, train_ticket

pytestmark = pytest.mark.usefixtures("few_digits")

COUPLED = {
    "test_resnet": ("layer2.0.conv2.weight", "layer2.0.downsample.1.weight"),  # a sum
    "mobilenetv2_035": ("blocks.1.0.conv_pw.weight", "blocks.1.0.conv_dw.weight"),  # depthwise
    "test_efficientnet": (  # multiplied
        *("blocks.3.0.conv_pw.weight", "blocks.3.0.conv_dw.weight"),
        "blocks.3.0.se.conv_expand.weight",
    ),
}


def removable(name: str) -> tuple[Filters, dict[str, str]]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    images = torch.zeros(2, 3, 160 if name == "test_vit" else 32, 160 if name == "test_vit" else 32)
    return removable_filters(model, maskable_weights(model).weights, images)


@pytest.mark.parametrize("name", COUPLED)
def test_layers_whose_outputs_are_joined_lose_the_same_filters(name: str) -> None:
    filters, reasons = removable(name)
    assert COUPLED[name] in filters.groups
    assert not reasons
    assert filters.norms[COUPLED[name][0]]


def test_layers_that_cannot_lose_a_filter_stay_dense_by_name() -> None:
    filters, reasons = removable("test_vit")
    assert filters.groups == tuple((f"blocks.{i}.mlp.fc1.weight",) for i in range(6))
    assert filters.norms == {}
    assert "moves channels" in reasons["blocks.0.attn.qkv.weight"]
    filters, reasons = removable("cifar_resnet20")  # its shortcuts pad channels
    assert filters.groups == tuple((f"layer{i}.{j}.conv1.weight",) for i in (1, 2, 3) for j in range(3))
    assert set(reasons) == {
        "conv1.weight",
        *(f"layer{i}.{j}.conv2.weight" for i in (1, 2, 3) for j in range(3)),
    }


def test_a_layer_joined_with_a_dense_one_stays_dense() -> None:
    model = timm.create_model("test_resnet", num_classes=5).eval()
    weights = maskable_weights(model, exclude=("layer2.0.downsample.*",)).weights
    filters, reasons = removable_filters(model, weights, torch.zeros(2, 3, 32, 32))
    assert "layer2.0.conv2.weight" not in {name for group in filters.groups for name in group}
    assert reasons["layer2.0.conv2.weight"] == (
        "its outputs are joined with those of layer2.0.downsample.1.weight, which stays dense"
    )


def test_the_largest_sums_are_whole_filters_and_the_same_ones_in_a_group() -> None:
    torch.manual_seed(0)
    scores = {"a": torch.rand(6, 4, 3, 3), "b": torch.rand(6, 1, 3, 3), "c": torch.rand(8, 5)}
    sums = filter_sums(scores, [("a", "b"), ("c",)])
    expected = scores["a"].sum((1, 2, 3)) + scores["b"].sum((1, 2, 3))
    assert torch.allclose(sums["a"][:, 0, 0, 0], expected)
    assert [tuple(sums[name].shape) for name in scores] == [tuple(values.shape) for values in scores.values()]
    masks = {name: keep_largest(sums[name], kept_filters(scores[name].shape, "0.5")) for name in scores}
    assert all(map(keeps_filters, masks.values()))
    assert torch.equal(masks["a"].flatten(1).all(1), masks["b"].flatten(1).all(1))
    assert int(masks["a"].sum()) == 3 * 36
    assert kept_filters((8, 5), "0.99") == 5  # one filter at least
    assert not keeps_filters(torch.tensor([[True, False], [True, True]]))


class Joined(nn.Module):
    """Two convolutions, one with a norm, whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.plain, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        gate = torch.ones(4) if gate is None else gate
        scale, shift = self.norm.weight * gate, self.norm.bias * gate
        normed = F.batch_norm(self.conv(x), None, None, scale, shift, training=True)
        plain = F.conv2d(x, self.plain.weight * gate.view(-1, 1, 1, 1))
        return self.fc((normed + plain).relu().mean((2, 3)))


def test_the_gradient_of_a_filter_is_that_of_a_gate_behind_the_norm() -> None:
    torch.manual_seed(0)
    network = Joined()
    nn.init.normal_(network.norm.weight)
    nn.init.normal_(network.norm.bias)
    network.requires_grad_(False)
    images = torch.randn(5, 3, 8, 8)
    scores = {name: torch.rand(4, 3, 3, 3) for name in ("conv.weight", "plain.weight")}
    total = scores["conv.weight"].sum((1, 2, 3)) + scores["plain.weight"].sum((1, 2, 3))
    gate = torch.ones(4)
    gate[total.argmin()] = 1e-3
    gate.requires_grad_(True)
    network(images, gate).square().sum().backward()
    assert gate.grad is not None
    assert float(gate.grad.abs().min()) > 0

    filters = Filters((("conv.weight", "plain.weight"),), {"conv.weight": "norm"}, frozenset())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapter = attach(network, scores, dict.fromkeys(scores, 3 * 27), filters=filters)
    (shared,) = adapter.scores()
    assert torch.allclose(shared, total)
    network(images).square().sum().backward()
    assert shared.grad is not None
    assert torch.allclose(shared.grad, gate.grad, rtol=1e-4, atol=1e-6)
    masks = adapter.masks()
    assert torch.equal(masks["conv.weight"].flatten(1).all(1), gate.detach() == 1)
    assert all(map(keeps_filters, masks.values()))
    assert len(adapter_of(network).scores()) == 1
    detach(network)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if "running" not in name)


def test_removed_filters_before_a_depthwise_layer_still_have_a_gradient() -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=5)
    images = torch.randn(4, 3, 64, 64)
    weights = maskable_weights(model).weights
    filters, _ = removable_filters(model, weights, images)
    chains = [group for group in filters.groups if group[-1].endswith("conv_dw.weight")]
    assert filters.inner == {name for group in chains for name in group[:-1]}
    scores = filter_sums({name: weight.detach().abs() for name, weight in weights.items()}, filters.groups)
    kept = {name: kept_filters(weight.shape, "0.5") for name, weight in weights.items()}
    adapter = attach(model.requires_grad_(False), scores, kept, filters=filters)
    F.cross_entropy(model(images), torch.arange(4)).backward()
    for layer in adapter.values():
        removed = layer.scores.detach() < layer.threshold
        assert layer.scores.grad is not None
        assert float(layer.scores.grad[removed].abs().max()) > 0


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search(tmp_path_factory.mktemp("filters") / "a", load_base("digits_resnet"))


def search(folder: Path, base: Base, **settings: object) -> SearchResult:
    plain = {"allocation": "filters", "sparsity": "0.5", "steps": 8, "val_fraction": 0.0}
    return search_jackpot(SearchConfig(output=str(folder), **{**plain, **settings}), base)


def test_a_search_keeps_whole_filters_and_its_artifact_loads(searched: SearchResult, digits_base: Base) -> None:
    artifact = read_artifact(searched.summary["artifact"])
    masks = artifact.masks_on(digits_base)
    assert all(map(keeps_filters, masks.values()))
    for mask in masks.values():
        assert int(mask.sum()) == kept_filters(mask.shape, "0.5")
    first, second = masks["conv1.6.weight"], masks["layer1.0.conv2.weight"]
    assert torch.equal(first.flatten(1).all(1), second.flatten(1).all(1))
    assert artifact.config.allocation.name == "filters"
    # A removed filter's norm gives zero, so that nothing is left of the channel.
    removed = ~masks["layer1.0.conv1.weight"].flatten(1).all(1)
    assert not artifact.extras["layer1.0.bn1.bias"][removed].any()
    assert artifact.extras["layer1.0.bn1.bias"][~removed].any()


def test_without_the_removed_filters_the_network_is_smaller_and_gives_the_same_logits(
    searched: SearchResult, tmp_path: Path
) -> None:
    model, images = from_pretrained(searched.summary["artifact"]), torch.randn(4, 3, 32, 32)
    export_jackpot(model, tmp_path / "small", format="shrunk", images=images)
    small = load_exported(tmp_path / "small")
    with torch.no_grad():
        wanted, found = model(images), small(images)
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    halved = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    assert halved < 0.4


def test_the_same_seed_gives_the_same_filters(searched: SearchResult, digits_base: Base, tmp_path: Path) -> None:
    again = search(tmp_path / "b", digits_base)
    assert again.summary["mask_hash"] == searched.summary["mask_hash"]


@pytest.mark.parametrize("flag", [("--layer-sparsity", "conv1.*=0.1"), ("--min-density", "0.1")])
def test_every_layer_loses_the_same_fraction(flag: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"removes the same fraction from every layer: leave {flag[0]} out"):
        parse(SearchConfig, argv=["--allocation", "filters", *flag])


@pytest.mark.parametrize("method", ["rigl", "omp"])
def test_methods_that_choose_single_weights_refuse(method: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps layer counts, not patterns"):
        train_ticket(config_of(method)(model="digits_resnet", allocation="filters", output=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


def test_a_loop_of_ones_own_refuses_them() -> None:
    with pytest.raises(ConfigError, match="whole filters, whose norms change with them, are for `search`"):
        JackpotConfig(allocation="filters")


def test_without_torch_pruning_it_says_what_to_install(
    digits_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timm_jackpot.base.channels.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package torch-pruning: pip install 'timm-jackpot\[export\]'"):
        search(tmp_path / "x", digits_base)


def test_a_mask_with_part_of_a_filter_is_refused(digits_base: Base, tmp_path: Path) -> None:
    result = search(tmp_path / "a", digits_base, allocation="uniform", steps=0)
    path = Path(result.summary["artifact"]) / "config.json"
    config = json.loads(path.read_text())
    config["allocation"]["name"] = "filters"
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="does not keep whole filters"):
        read_artifact(result.summary["artifact"]).masks_on(digits_base)


def test_statistics_are_re_estimated_by_default() -> None:
    assert SearchConfig(allocation="filters").recalibrate_batches == 40
    assert SearchConfig(allocation="filters", recalibrate_batches=0).recalibrate_batches == 0
    assert SearchConfig().recalibrate_batches == 0
