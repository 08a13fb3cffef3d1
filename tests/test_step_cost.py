"""What a search step costs above one of dense training, counted in operators: no clock, no accelerator."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from timm_jackpot.adapter import ScoreAdapter, attach
from timm_jackpot.base import create_timm_model, maskable_weights
from timm_jackpot.methods.equalise import equalise_gradients
from timm_jackpot.training import Objective

# What makes the host wait for an accelerator: values, or sizes that depend on them, and copies between devices.
WAITS = {"_local_scalar_dense", "_to_copy", "equal", "is_nonzero", "item", "masked_select", "nonzero", "_unique2"}


class Operators(TorchDispatchMode):
    """Counts what reaches the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def built(name: str, size: int) -> nn.Module:
    with torch.device("meta"):
        requested = {} if name == "cifar_resnet20" else {"num_classes": 10, "img_size": size}
        return create_timm_model(name, requested, pretrained=False).train()


def operators_of_a_step(model: nn.Module, trained: list[nn.Parameter], size: int, *, equalise: bool) -> Counter[str]:
    """Of the second step: the first one makes the optimizer's state."""
    optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9, weight_decay=5e-4, foreach=True)
    if equalise:
        equalise_gradients(optimizer, trained)
    images = torch.empty(2, 3, size, size, device="meta")
    labels = torch.empty(2, dtype=torch.int64, device="meta")
    counted = Operators()
    for _ in range(2):
        counted.counts.clear()
        with counted:
            Objective()(model, images, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return counted.counts


def maskable(model: nn.Module, n_of_m: tuple[int, int] | None) -> dict[str, nn.Parameter]:
    weights = maskable_weights(model).weights
    return {name: weight for name, weight in weights.items() if n_of_m is None or weight.shape[1] % n_of_m[1] == 0}


def attached(model: nn.Module, weights: dict[str, nn.Parameter], n_of_m: tuple[int, int] | None = None) -> ScoreAdapter:
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    return attach(model, scores, {name: weight.numel() // 2 for name, weight in weights.items()}, n_of_m=n_of_m)


@pytest.mark.parametrize("n_of_m", [None, (2, 4)], ids=["counts", "2:4"])
@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet50", 64), ("vit_small_patch16_224", 224), ("convnext_tiny", 64), ("cifar_resnet20", 32)],
)
def test_a_search_step_adds_few_operators_and_waits_for_nothing(
    name: str, size: int, n_of_m: tuple[int, int] | None
) -> None:
    model = built(name, size).requires_grad_(False)
    weights = maskable(model, n_of_m)
    for weight in weights.values():  # and nothing else, or what a search does not train would hide what it costs
        weight.requires_grad_(True)
    dense = operators_of_a_step(model, list(weights.values()), size, equalise=False)
    adapter = attached(model, weights, n_of_m)
    search = operators_of_a_step(model, adapter.scores(), size, equalise=True)
    extra = search.total() - dense.total()
    assert 0 < extra <= 5 * len(adapter) + 60, search - dense
    assert not WAITS & search.keys()


def graphs_of(model: nn.Module, size: int) -> list[int]:
    """Operators in each graph that torch.compile makes of a forward and a backward pass."""
    sizes: list[int] = []

    def compiler(graph: torch.fx.GraphModule, _: object) -> Any:
        sizes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    compiled = torch.compile(model, backend=aot_autograd(fw_compiler=compiler, bw_compiler=compiler))
    images = torch.empty(2, 3, size, size, device="meta")
    Objective()(compiled, images, torch.empty(2, dtype=torch.int64, device="meta")).backward()
    return sizes


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cifar_resnet20", 32),
        pytest.param("resnet50", 64, marks=pytest.mark.slow),
        pytest.param("vit_small_patch16_224", 224, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 64, marks=pytest.mark.slow),
    ],
)
def test_a_masked_network_compiles_to_one_graph_for_each_pass(name: str, size: int) -> None:
    model = built(name, size).requires_grad_(False)
    weights = maskable(model, None)
    for weight in weights.values():
        weight.requires_grad_(True)
    dense = graphs_of(model, size)
    adapter = attached(model, weights)
    search = graphs_of(model, size)
    assert len(dense) == len(search) == 2
    assert 0 < sum(search) - sum(dense) <= 5 * len(adapter)


def test_a_refresh_on_an_accelerator_waits_for_nothing() -> None:
    model = built("cifar_resnet20", 32)
    adapter = attached(model, maskable(model, None))
    with Operators() as counted:
        adapter.refresh({name: layer.scores.numel() // 10 for name, layer in adapter.items()})
    assert counted.counts["sort"] == len(adapter)
    assert not WAITS & counted.counts.keys()
