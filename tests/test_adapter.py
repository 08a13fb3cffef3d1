"""The score adapter: what a model computes, learns and keeps while scores sit on its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from timm_jackpot.adapter import ScoreAdapter, attach, detach, merge
from timm_jackpot.base import load_base, maskable_weights
from timm_jackpot.errors import BaseError
from timm_jackpot.masks import MaskSet, keep_largest


class Reader(nn.Module):
    """Reads `self.qkv.weight` itself, as BEiT, EVA and Swin-V2 do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1)[:, :12], self.qkv.weight, self.qkv.bias)


class Grouped(nn.Module):
    """Plain, grouped and depthwise convs, and a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.group = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.out = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.depth(self.group(self.stem(x))).relu().mean((2, 3)))


class Tied(nn.Module):
    """Two linear layers, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)[:, :6]).relu())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "digits_resnet": lambda: load_base("digits_resnet").model,
    "test_vit": lambda: timm.create_model("test_vit", img_size=32, num_classes=10),
    "reader": Reader,
    "grouped": Grouped,
    "tied": Tied,
}
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 32, 32)


def attach_random(model: nn.Module, density: float = 0.3) -> ScoreAdapter:
    weights = maskable_weights(model).weights
    scores = {name: torch.rand(weight.shape) for name, weight in weights.items()}
    return attach(model, scores, {name: round(density * weight.numel()) for name, weight in weights.items()})


def hand_masked(model: nn.Module, masks: MaskSet) -> nn.Module:
    """A copy of a plain model with zeros written into its weights."""
    zeroed = copy.deepcopy(model)
    state = zeroed.state_dict()
    for name, mask in masks.items():
        state[name][~mask] = 0.0
    return zeroed


# -- forward ----------------------------------------------------------------------------------------


@every_model
def test_an_attached_model_computes_what_hand_zeroed_weights_do(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    plain = copy.deepcopy(model)
    adapter = attach_random(model)
    x = images()
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(logits, hand_masked(plain, adapter.masks())(x))
        assert not torch.allclose(logits, plain(x))


@every_model
def test_a_merged_model_computes_what_the_attached_one_did(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    adapter = attach_random(model)
    x, masks = images(), adapter.masks()
    with torch.no_grad():
        logits = model(x)
        detach(model)
        assert merge(model, masks) is model
        assert torch.equal(model(x), logits)
    weights = maskable_weights(model).weights
    assert all(not weights[name][~mask].any() for name, mask in masks.items())


def test_a_functional_reader_sees_the_mask() -> None:
    model = Reader()
    weight = model.qkv.weight.detach().clone()
    mask = attach(model, {"qkv.weight": torch.rand(6, 12)}, {"qkv.weight": 20})["qkv.weight"].mask()
    assert torch.equal(model.qkv.weight, weight * mask)
    assert int(model.qkv.weight.count_nonzero()) == 20


# -- gradients --------------------------------------------------------------------------------------


@every_model
def test_every_score_gets_the_gradient_of_its_effective_weight_times_the_weight(
    build: Callable[[], nn.Module],
) -> None:
    model = build().eval()
    plain = copy.deepcopy(model)
    adapter = attach_random(model)
    x, y = images(), torch.tensor([0, 1, 2, 3])
    F.cross_entropy(model(x), y).backward()

    maskable = maskable_weights(plain)
    weights = maskable.weights
    effective = {name: (weights[name] * mask).detach().requires_grad_() for name, mask in adapter.masks().items()}
    tied = {second: effective[first] for second, first in maskable.aliases.items()}
    loss = F.cross_entropy(functional_call(plain, effective | tied, (x,), tie_weights=False), y)
    grads = torch.autograd.grad(loss, list(effective.values()))
    for (name, layer), grad in zip(adapter.items(), grads, strict=True):
        assert layer.scores.grad is not None
        torch.testing.assert_close(layer.scores.grad, grad * weights[name], rtol=1e-5, atol=1e-8)
        assert layer.scores.grad[~layer.mask()].abs().sum() > 0, f"pruned weights of {name} learn nothing"


def test_only_scores_and_what_was_not_masked_ask_for_gradients() -> None:
    model = Grouped()
    adapter = attach(model, {"stem.weight": torch.rand(8, 3, 3, 3)}, {"stem.weight": 50})
    asking = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "stem.parametrizations.weight.original" not in asking
    assert "stem.parametrizations.weight.0.scores" in asking
    assert {"stem.bias", "group.weight", "depth.weight", "out.weight"} <= asking
    assert adapter["stem.weight"].scores.dtype == torch.float32


def train_steps(model: nn.Module, adapter: ScoreAdapter, kept: dict[str, int], steps: int, lr: float = 5.0) -> None:
    optimizer = torch.optim.SGD(adapter.scores(), lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
        adapter.refresh(kept)


@every_model
def test_weights_stay_and_counts_are_exact_over_steps(build: Callable[[], nn.Module]) -> None:
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    adapter = attach_random(model)
    first = adapter.masks()
    kept = first.kept_per_layer()
    for _ in range(3):
        train_steps(model, adapter, kept, 1)
        assert adapter.masks().kept_per_layer() == kept
    assert adapter.masks() != first
    detach(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_refresh_follows_scores_and_counts() -> None:
    model = Reader()
    adapter = attach(model, {"qkv.weight": torch.arange(72.0).reshape(6, 12)}, {"qkv.weight": 72})
    assert model.qkv.weight.all()
    for kept in (0, 1, 10, 71, 72):
        adapter.refresh({"qkv.weight": kept})
        expected = [False] * (72 - kept) + [True] * kept
        assert (model.qkv.weight != 0).flatten().tolist() == expected
        assert adapter.masks()["qkv.weight"].flatten().tolist() == expected
    adapter.refresh({"qkv.weight": 10})
    with torch.no_grad():
        adapter["qkv.weight"].scores.neg_()
    adapter.refresh({"qkv.weight": 10})
    assert adapter.masks()["qkv.weight"].flatten().tolist() == [True] * 10 + [False] * 62


def test_between_refreshes_scores_cross_the_threshold_and_masks_keep_their_counts() -> None:
    model = Reader()
    adapter = attach(model, {"qkv.weight": torch.arange(72.0).reshape(6, 12)}, {"qkv.weight": 10})
    with torch.no_grad():
        adapter["qkv.weight"].scores[0, :5] = 100.0
    assert int(model.qkv.weight.count_nonzero()) == 15
    kept = adapter.masks()["qkv.weight"].flatten()
    assert kept.nonzero().flatten().tolist() == [*range(5), *range(67, 72)]


@pytest.mark.parametrize("kept", [1, 30, 72])
def test_of_equal_scores_training_keeps_all_and_a_mask_the_first(kept: int) -> None:
    model = Reader()
    adapter = attach(model, {"qkv.weight": torch.full((6, 12), 0.3)}, {"qkv.weight": kept})
    assert model.qkv.weight.all()
    assert adapter.masks()["qkv.weight"].flatten().tolist() == [True] * kept + [False] * (72 - kept)


def test_scores_of_two_levels_stay_on_their_sides_while_they_move_less_than_half_the_distance() -> None:
    model, strong = Reader(), torch.rand(6, 12) < 0.2
    adapter = attach(model, {"qkv.weight": torch.where(strong, 1.0, 0.95)}, {"qkv.weight": int(strong.sum())})
    with torch.no_grad():
        adapter["qkv.weight"].scores += 0.02 * (torch.rand(6, 12) - torch.rand(6, 12))
    assert torch.equal(model.qkv.weight != 0, strong)


def test_masks_handed_out_are_copies() -> None:
    model = Reader()
    adapter = attach_random(model)
    masks = adapter.masks()
    before = masks.hash()
    with torch.no_grad():
        adapter["qkv.weight"].scores.neg_()
    adapter.refresh(masks.kept_per_layer())
    assert masks.hash() == before
    assert adapter.masks().hash() != before


def test_scores_stay_float32_on_half_precision_weights() -> None:
    model = nn.Linear(8, 4).to(torch.bfloat16)
    adapter = attach(model, {"weight": torch.full((4, 8), 0.999)}, {"weight": 16})
    model(torch.randn(2, 8, dtype=torch.bfloat16)).sum().backward()
    scores = adapter["weight"].scores
    assert scores.dtype == torch.float32
    assert bool((scores == 0.999).all())
    assert scores.grad is not None
    assert scores.grad.dtype == torch.float32


# -- memory formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before attach", "after attach"])
def test_channels_last_models_are_really_masked(when: str) -> None:
    model = load_base("digits_resnet").model
    plain = copy.deepcopy(model)
    if when == "before attach":
        model.to(memory_format=torch.channels_last)  # pyright: ignore
    adapter = attach_random(model)
    if when == "after attach":
        model.to(memory_format=torch.channels_last)  # pyright: ignore
    start, kept = adapter.masks(), adapter.masks().kept_per_layer()
    train_steps(model, adapter, kept, 2)

    masks = adapter.masks()
    assert masks != start
    assert masks.kept_per_layer() == kept
    by_scores = {name: keep_largest(layer.scores.contiguous(), kept[name]) for name, layer in adapter.items()}
    assert masks == MaskSet(by_scores)
    conv = model.get_submodule("layer1.0.conv1")
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv.weight != 0, masks["layer1.0.conv1.weight"])
    x = images()
    with torch.no_grad():
        expected = hand_masked(plain, masks)(x)
        found = model(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("when", ["before attach", "after attach"])
def test_scores_and_masked_weights_have_the_memory_format_of_the_weight(when: str) -> None:
    model = Grouped()
    if when == "before attach":
        model.to(memory_format=torch.channels_last)  # pyright: ignore
    adapter = attach_random(model)
    if when == "after attach":
        model.to(memory_format=torch.channels_last)  # pyright: ignore
    adapter.refresh(adapter.masks().kept_per_layer())
    for layer in (adapter["stem.weight"], adapter["group.weight"]):
        assert layer.scores.is_contiguous(memory_format=torch.channels_last)
    assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.parametrize("n_of_m", [None, (1, 2)])
def test_scores_and_thresholds_follow_the_model_to_a_gpu(n_of_m: tuple[int, int] | None) -> None:
    model = Grouped().eval()
    weights = {name: w for name, w in maskable_weights(model).weights.items() if w.shape[1] % 2 == 0}
    scores = {name: torch.rand(weight.shape) for name, weight in weights.items()}
    adapter = attach(model, scores, {name: w.numel() // 2 for name, w in weights.items()}, n_of_m=n_of_m)
    x, masks = images(), adapter.masks()
    with torch.no_grad():
        expected = model(x)
        model.to("cuda")
        assert {layer.threshold.device.type for layer in adapter.values()} == {"cuda"}
        torch.testing.assert_close(model(x.to("cuda")).cpu(), expected, rtol=1e-3, atol=1e-3)
    before = [layer.threshold.clone() for layer in adapter.values()]
    adapter.refresh(masks.kept_per_layer())
    assert all(torch.equal(layer.threshold, then) for layer, then in zip(adapter.values(), before, strict=True))
    assert adapter.masks() == masks


# -- tied weights -----------------------------------------------------------------------------------


def test_a_tied_weight_has_one_score_and_one_mask() -> None:
    model = Tied()
    adapter = attach_random(model)
    assert list(adapter) == ["first.weight"]
    assert torch.equal(model.first.weight, model.second.weight)
    assert int(model.second.weight.count_nonzero()) == adapter.masks().kept
    scores = [name for name, _ in model.named_parameters() if name.endswith("scores")]
    assert scores == ["first.parametrizations.weight.0.scores"]


def test_a_tied_weight_is_the_same_tensor_after_detach() -> None:
    model = Tied()
    weight = model.first.weight
    attach_random(model)
    detach(model)
    assert model.first.weight is weight
    assert model.second.weight is weight


def test_scores_for_both_names_of_a_tied_weight_are_refused() -> None:
    scores = {"first.weight": torch.rand(6, 6), "second.weight": torch.rand(6, 6)}
    with pytest.raises(BaseError):
        attach(Tied(), scores, dict.fromkeys(scores, 10))


# -- detach, copies, state --------------------------------------------------------------------------


@every_model
def test_detach_leaves_no_trace(build: Callable[[], nn.Module]) -> None:
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    classes = [type(module) for module in model.modules()]
    attach_random(model)
    detach(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [type(module) for module in model.modules()] == classes
    assert all(p is parameters[name] for name, p in model.named_parameters())


def test_detaching_a_plain_model_changes_nothing() -> None:
    model = Grouped()
    names = list(model.state_dict())
    detach(model)
    assert list(model.state_dict()) == names


def test_a_detached_model_can_be_attached_again() -> None:
    model = Grouped()
    attach_random(model)
    detach(model)
    adapter = attach_random(model, density=0.5)
    assert int(model.stem.weight.count_nonzero()) == adapter.masks().kept_per_layer()["stem.weight"]


def test_detach_leaves_other_parametrizations_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    attach(model, {"0.weight": torch.rand(4, 4)}, {"0.weight": 8})
    detach(model)
    assert type(model[0]) is nn.Linear
    assert nn.utils.parametrize.is_parametrized(model[1], "weight")


@every_model
def test_a_deep_copy_computes_the_same_and_lives_on_its_own(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    adapter = attach_random(model)
    twin = copy.deepcopy(model)
    x = images()
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(twin(x), logits)
        for scores in adapter.scores():
            scores.neg_()
        adapter.refresh(adapter.masks().kept_per_layer())
        assert not torch.equal(model(x), logits)
        assert torch.equal(twin(x), logits)


def test_detaching_a_model_leaves_its_deep_copy_attached() -> None:
    model = Grouped()
    attach_random(model)
    twin = copy.deepcopy(model)
    x = images()
    logits = twin(x)
    detach(model)
    assert torch.equal(twin(x), logits)
    detach(twin)
    assert list(twin.state_dict()) == list(model.state_dict())
    assert torch.equal(twin(x), model(x))


def test_a_deep_copy_keeps_ties() -> None:
    model = Tied()
    attach_random(model)
    twin = copy.deepcopy(model)
    detach(twin)
    assert twin.first.weight is twin.second.weight
    assert type(twin.first) is nn.Linear


def test_thresholds_are_neither_buffers_nor_state() -> None:
    model = load_base("digits_resnet").model
    buffers, before = [name for name, _ in model.named_buffers()], model.state_dict().keys()
    attach_random(model)
    assert [name for name, _ in model.named_buffers()] == buffers
    state = model.state_dict()
    assert not [name for name in state if "threshold" in name]
    assert {name.rpartition(".")[2] for name in state.keys() - before} == {"original", "scores"}


# -- what attach refuses ----------------------------------------------------------------------------


def test_attach_refuses_a_name_that_is_no_parameter() -> None:
    with pytest.raises(BaseError, match=r"no parameter 'stem\.wait'"):
        attach(Grouped(), {"stem.wait": torch.rand(3)}, {"stem.wait": 1})


def test_attach_refuses_another_shape_and_names_both() -> None:
    with pytest.raises(BaseError, match=r"qkv\.weight have shape \(12, 6\), expected \(6, 12\)"):
        attach(Reader(), {"qkv.weight": torch.rand(12, 6)}, {"qkv.weight": 1})


def test_attach_refuses_a_weight_that_already_has_scores() -> None:
    model = Reader()
    attach_random(model)
    with pytest.raises(BaseError, match="already"):
        attach(model, {"qkv.weight": torch.rand(6, 12)}, {"qkv.weight": 1})


def test_a_refused_attach_leaves_the_model_plain() -> None:
    model = Grouped()
    names = list(model.state_dict())
    with pytest.raises(BaseError):
        attach(
            model, {"stem.weight": torch.rand(8, 3, 3, 3), "nothing": torch.rand(1)}, {"stem.weight": 3, "nothing": 1}
        )
    assert list(model.state_dict()) == names
    assert model.stem.weight.requires_grad


def test_scores_with_nan_are_refused_and_nothing_is_attached() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4))
    before = list(model.state_dict())
    scores = {"0.weight": torch.ones(5, 4), "1.weight": torch.ones(4, 5)}
    scores["1.weight"][2, 3] = torch.nan
    with pytest.raises(BaseError, match=r"scores of 1\.weight contain NaN"):
        attach(model, scores, {"0.weight": 5, "1.weight": 5})
    assert list(model.state_dict()) == before
