"""On a CPU h(s) ⊙ w outlives the forward pass, and its memory becomes the gradient's: neither may ever be wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from timm_jackpot.adapter import ScoreAdapter, adapter_of, attach, detach, merge

NAME = "group.weight"
KEPT = {NAME: 30, "last.weight": 9}
X = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.group = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.group(x).relu().mean((2, 3)))


def attached(*, reuse: bool = True) -> tuple[nn.Module, ScoreAdapter]:
    torch.manual_seed(3)
    model = Net()
    scores = {name: torch.rand(model.get_parameter(name).shape) for name in KEPT}
    return model, attach(model, scores, KEPT, reuse_memory=reuse)


@pytest.fixture
def model() -> nn.Module:
    return attached()[0]


@pytest.fixture
def adapter(model: nn.Module) -> ScoreAdapter:
    return adapter_of(model)


def check(model: nn.Module) -> None:
    """The model computes what its weights and masks, as they are now, must compute."""
    x = X.to(model.last.bias.dtype)  # pyright: ignore
    plain = copy.deepcopy(model)
    masks = adapter_of(plain).masks()
    detach(plain)
    for _ in range(2):
        assert torch.equal(model(x), merge(plain, masks)(x))


def address(model: nn.Module) -> int:
    with torch.no_grad():
        return model.group.weight.data_ptr()  # pyright: ignore


# -- the product ------------------------------------------------------------------------------------


def test_it_follows_the_mask_and_stays_in_its_place(model: nn.Module, adapter: ScoreAdapter) -> None:
    layer = adapter[NAME]
    first = address(model)
    for kept in (31, 30, 5, 140, 144, 0, 30):
        with torch.no_grad():
            layer.scores.add_(torch.randn(layer.scores.shape))
            before = layer.mask.clone()
            assert int(layer.refresh(kept)) == int((before ^ layer.mask).count_nonzero())
            check(model)
        assert address(model) == first


def test_two_refreshes_without_a_forward_pass(model: nn.Module, adapter: ScoreAdapter) -> None:
    model(X)
    for kept in (10, 90):
        adapter.refresh({**KEPT, NAME: kept})
    check(model)


def test_a_weight_that_is_written_to(model: nn.Module, adapter: ScoreAdapter) -> None:
    model(X)
    model.load_state_dict({name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()})
    check(model)
    adapter.refresh({**KEPT, NAME: 12})
    check(model)


def test_a_mask_that_is_written_to(model: nn.Module, adapter: ScoreAdapter) -> None:
    model(X)
    adapter[NAME].mask.logical_not_()
    check(model)
    adapter[NAME].mask = ~adapter[NAME].mask
    check(model)


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model, adapter = attached()
        logits = model(X)
        adapter[NAME].mask.logical_not_()
        assert not torch.equal(model(X), logits)


def test_masks_made_in_inference_mode() -> None:
    model = Net()
    with torch.inference_mode():
        attach(model, {NAME: torch.rand(8, 2, 3, 3)}, {NAME: 30}, reuse_memory=True)
        check(model)


def test_a_weight_of_another_layout(model: nn.Module) -> None:
    address(model)
    state = {
        k: v.clone(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    with torch.no_grad():
        assert model.group.weight.is_contiguous(memory_format=torch.channels_last)  # pyright: ignore


def test_weights_that_a_fused_optimizer_trains(model: nn.Module) -> None:
    weight = model.get_parameter("group.parametrizations.weight.original").requires_grad_()
    optimizer = torch.optim.SGD([weight], 0.1, fused=True)  # which writes to it uncounted
    for _ in range(3):
        model(X).pow(2).sum().backward()
        check(model)
        optimizer.step()
    check(model)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("refreshes", range(1, 6))
def test_a_deep_copy(model: nn.Module, adapter: ScoreAdapter, refreshes: int, trained: bool) -> None:
    for kept in (20, 21, 22):
        adapter.refresh({**KEPT, NAME: kept})
        out = model(X)
        if trained:
            out.sum().backward()
    twin = copy.deepcopy(model)
    theirs = adapter_of(twin)
    for i in range(refreshes):
        theirs.refresh({**KEPT, NAME: 100 + i})
    check(twin)
    check(model)
    assert address(model) != address(twin)


def test_other_dtypes_and_layouts(model: nn.Module, adapter: ScoreAdapter) -> None:
    model(X)
    model.to(memory_format=torch.channels_last)  # pyright: ignore
    check(model)
    adapter.refresh({**KEPT, NAME: 77})
    check(model)
    check(model.double())


def test_inference_mode_leaves_nothing_that_training_cannot_use(model: nn.Module, adapter: ScoreAdapter) -> None:
    with torch.inference_mode():
        model(X)
    model(X).sum().backward()
    assert adapter[NAME].scores.grad is not None
    check(model)


def test_a_weight_that_a_caller_puts_in_its_place(model: nn.Module, adapter: ScoreAdapter) -> None:
    model(X).sum().backward()
    model.zero_grad()
    for kind in (lambda w: nn.Parameter(w.double(), False), lambda w: nn.Parameter(w, False), Tensor.clone):
        other = {"parametrizations.weight.original": kind(torch.randn(8, 2, 3, 3))}
        (weight,) = other.values()
        check(model)
        swapped = functional_call(model.group, other, (X.to(weight.dtype),))  # pyright: ignore
        masked = weight * adapter[NAME].mask
        assert torch.equal(swapped, F.conv2d(X.to(weight.dtype), masked, groups=4))
    check(model)


def test_what_is_handed_out_may_be_written_to(model: nn.Module) -> None:
    model(X)
    with torch.no_grad():
        model.group.weight.zero_()  # pyright: ignore
    check(model)


def test_it_is_not_kept_unless_asked_for() -> None:
    model, _ = attached(reuse=False)
    model(X)
    model.get_parameter("group.parametrizations.weight.original").data.mul_(2)  # a write that nobody counts
    check(model)


# -- the gradient -----------------------------------------------------------------------------------


def steps(model: nn.Module, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
    adapter = adapter_of(model)
    optimizer = make(adapter.scores())
    for step in range(5):
        adapter.refresh({**KEPT, NAME: 40 - step})
        (step + model(X * (1 + step))).pow(2).sum().backward()
        with torch.no_grad():
            model(X)  # an evaluation while the gradient still holds the memory
        if step:  # gradients of two steps at first
            optimizer.step()
            optimizer.zero_grad(set_to_none=step != 2)
    model(X).sum().backward()


def two_passes(model: nn.Module) -> None:
    (model(X).sum() + model(2 * X).pow(2).sum()).backward()


def two_graphs(model: nn.Module) -> None:
    first, second = model(X).pow(2).sum(), model(2 * X).pow(2).sum()
    second.backward()
    first.backward()


def another_weight_in_its_place(model: nn.Module) -> None:
    name = "group.parametrizations.weight.original"
    first = model(X).pow(2).sum()
    functional_call(model, {name: nn.Parameter(2 * model.get_parameter(name))}, (X,)).pow(2).sum().backward()
    first.backward()


def a_graph_without_a_backward_pass(model: nn.Module) -> None:
    model(X)
    model(X).pow(2).sum().backward()


def accumulation(model: nn.Module) -> None:
    for scale in (1, 2, 3):
        model(scale * X).pow(2).sum().backward()


def accumulation_after_a_step(model: nn.Module) -> None:
    accumulation(model)
    model.zero_grad()
    accumulation(model)


def retained_graphs(model: nn.Module) -> None:
    x = X.clone().requires_grad_()  # for whose gradient the convolution reads its weight
    first = model(x).pow(2).sum()
    first.backward(retain_graph=True)
    second = model(2 * x).pow(2).sum()
    first.backward()
    second.backward()
    third, fourth = model(3 * x).pow(2).sum(), model(4 * x).pow(2).sum()
    fourth.backward()
    third.backward()


def retained_graphs_out_of_sight(model: nn.Module) -> None:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):  # which skip the check of versions
        retained_graphs(model)


def a_weight_read_once_for_all(model: nn.Module) -> None:
    with parametrize.cached():
        model(X).pow(2).sum().backward()
        with torch.no_grad():
            seen = model(X)
    adapter_of(model)[NAME].scores.grad += seen.sum()  # pyright: ignore


def half_precision_weights(model: nn.Module) -> None:
    for parameter in set(model.parameters()) - set(adapter_of(model).scores()):
        parameter.data = parameter.data.bfloat16()
    for _ in range(3):
        model.zero_grad()
        model(X.bfloat16()).pow(2).sum().backward()
    assert all(s.grad is not None and s.grad.dtype == torch.float32 for s in adapter_of(model).scores())


def a_second_derivative(model: nn.Module) -> None:
    scores = adapter_of(model).scores()
    first = torch.autograd.grad(model(X).pow(2).sum(), scores, create_graph=True)
    sum(g.pow(2).sum() for g in first).backward()  # pyright: ignore
    scale = torch.tensor(2.0, requires_grad=True)
    (linear,) = torch.autograd.grad(scale * model.group.weight.sum(), scores[0], create_graph=True)  # pyright: ignore
    assert torch.autograd.grad(linear.sum(), scale)


def a_gradient_that_is_asked_for(model: nn.Module) -> None:
    scores = adapter_of(model).scores()
    asked = torch.autograd.grad(model(X).pow(2).sum(), scores)
    model(2 * X)
    for parameter, gradient in zip(scores, asked, strict=True):
        parameter.grad = gradient


def frozen_scores(model: nn.Module) -> None:
    adapter_of(model)[NAME].scores.requires_grad_(False)
    model(X).sum().backward()
    adapter_of(model)[NAME].scores.requires_grad_(True)
    model(X).pow(2).sum().backward()


def trained_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model(X).pow(2).sum().backward()


def checkpointed(model: nn.Module, *, reentrant: bool) -> None:
    for _ in range(2):
        x = X.clone().requires_grad_()
        checkpoint(model, x, use_reentrant=reentrant).pow(2).sum().backward()  # pyright: ignore


SCENARIOS: dict[str, Callable[[nn.Module], None]] = {
    "sgd": lambda model: steps(model, lambda scores: torch.optim.SGD(scores, 0.1, momentum=0.9)),
    "sgd with weight decay": lambda model: steps(model, lambda scores: torch.optim.SGD(scores, 0.1, weight_decay=0.1)),
    "adam": lambda model: steps(model, lambda scores: torch.optim.Adam(scores, 0.1)),
    "reentrant": lambda model: checkpointed(model, reentrant=True),
    "not reentrant": lambda model: checkpointed(model, reentrant=False),
    **{
        scenario.__name__: scenario
        for scenario in (
            two_passes,
            two_graphs,
            another_weight_in_its_place,
            a_graph_without_a_backward_pass,
            accumulation,
            accumulation_after_a_step,
            retained_graphs,
            retained_graphs_out_of_sight,
            a_weight_read_once_for_all,
            half_precision_weights,
            a_second_derivative,
            a_gradient_that_is_asked_for,
            frozen_scores,
            trained_weights,
        )
    },
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_scores_and_gradients_are_those_of_fresh_memory(
    scenario: Callable[[nn.Module], None], layout: torch.memory_format
) -> None:
    (ours, reused), (theirs, fresh) = attached(), attached(reuse=False)
    for twin in (ours, theirs):
        twin.to(memory_format=layout)  # pyright: ignore
        scenario(twin)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)  # pyright: ignore
    assert reused.masks() == fresh.masks()
    check(ours)


def test_a_tied_weight() -> None:
    def tied(*, reuse: bool) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        model[2].weight = model[0].weight
        attach(model, {"0.weight": torch.rand(6, 6)}, {"0.weight": 20}, reuse_memory=reuse)
        return model

    ours, theirs = tied(reuse=True), tied(reuse=False)
    for model in (ours, theirs):
        for scale in (1, 2, 3):
            model.zero_grad()
            model(scale * X[:, 0, 0]).pow(2).sum().backward()
        model.zero_grad()
        model(X[:, 0, 0]).pow(2).sum().backward()
    (one,), (other,) = adapter_of(ours).scores(), adapter_of(theirs).scores()
    assert one.grad is not None
    assert torch.equal(one.grad, other.grad)  # pyright: ignore


def test_memory_goes_from_product_to_gradient_and_back(model: nn.Module, adapter: ScoreAdapter) -> None:
    scores, first = adapter[NAME].scores, address(model)
    for kept in (40, 50, 60):
        adapter.refresh({**KEPT, NAME: kept})
        model(X).pow(2).sum().backward()
        assert scores.grad is not None
        assert scores.grad.data_ptr() == first
        model.zero_grad()
        assert address(model) == first


def test_two_memories_suffice_for_gradients_that_are_added_up(model: nn.Module, adapter: ScoreAdapter) -> None:
    seen = set()
    for kept in (40, 50, 60):
        adapter.refresh({**KEPT, NAME: kept})
        for _ in range(3):
            model(X).pow(2).sum().backward()
            seen |= {address(model), adapter[NAME].scores.grad.data_ptr()}  # pyright: ignore
        model.zero_grad()
    assert len(seen) == 2


def held_gradient(model: nn.Module, adapter: ScoreAdapter) -> Tensor:
    model(X).pow(2).sum().backward()
    gradient = adapter[NAME].scores.grad
    assert gradient is not None
    return gradient


def held_weight(model: nn.Module, adapter: ScoreAdapter) -> Tensor:
    del adapter
    return model.group.weight  # pyright: ignore


def held_weight_without_graph(model: nn.Module, adapter: ScoreAdapter) -> Tensor:
    del adapter
    with torch.no_grad():
        return model.group.weight.view(-1)  # pyright: ignore


@pytest.mark.parametrize("hold", [held_gradient, held_weight, held_weight_without_graph])
def test_what_a_caller_holds_is_never_written_to(
    model: nn.Module, adapter: ScoreAdapter, hold: Callable[[nn.Module, ScoreAdapter], Tensor]
) -> None:
    held = hold(model, adapter)
    before = held.detach().clone()
    for kept in (40, 50, 60):
        model.zero_grad()
        adapter.refresh({**KEPT, NAME: kept})
        with torch.no_grad():
            model(3 * X)
        for scale in (1, 2):
            model(scale * X).pow(2).sum().backward()
    assert torch.equal(held, before)
