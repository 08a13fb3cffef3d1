"""STR against its formula, and the sparsity that emerges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from timm_jackpot.adapter import detach, put_on
from timm_jackpot.artifact import read_artifact
from timm_jackpot.methods import Budget, Outcome, Task, build_network, method
from timm_jackpot.methods.sparse.soft_threshold import SoftThreshold, SoftThresholdSettings
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.search import SearchConfig, config_of, train_ticket
from timm_jackpot.search.task import open_task

pytestmark = pytest.mark.usefixtures("few_digits")

BUDGET = Budget("0.5", "erk", steps=6, seed=0)


@pytest.fixture(scope="module")
def task() -> Task:
    config = SearchConfig(dataset="digits", batch_size=64, val_fraction=0.8, steps=6)
    return open_task(config, None, make_accelerator(seed=0))[0]


def run(task: Task, **settings: Any) -> Outcome:
    return method("soft_threshold").run(task, BUDGET, SoftThresholdSettings(**settings))


@given(s=st.floats(-6, 2), seed=st.integers(0, 10**6))
def test_weights_and_gradients_are_those_of_the_formula(s: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    w, g = (draw.normal(size=(4, 5)) for _ in range(2))
    layer = SoftThreshold(s).double()
    weight = torch.from_numpy(w).requires_grad_(True)
    found = layer(weight)
    found.backward(torch.from_numpy(g))
    start = float(np.float32(s))
    sigmoid = 1 / (1 + np.exp(-start))
    kept = np.abs(w) > sigmoid
    np.testing.assert_allclose(found.detach().numpy(), np.where(kept, w - np.sign(w) * sigmoid, 0), atol=1e-12)
    assert weight.grad is not None
    assert layer.s.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), g * kept, atol=1e-12)
    slope = -(g * np.sign(w) * kept).sum() * sigmoid * (1 - sigmoid)
    assert layer.s.grad.item() == pytest.approx(slope, abs=1e-12)


def test_the_result_is_thresholded_and_the_masks_are_what_is_left(task: Task) -> None:
    before = {name: tensor.clone() for name, tensor in task.base.model.state_dict().items()}
    outcome = run(task, threshold_start=-3.0)
    assert outcome.masks is not None
    assert 0.1 < outcome.masks.sparsity < 0.99
    for name, mask in outcome.masks.items():
        assert torch.equal(outcome.changed[name].tensor != 0, mask), name
    assert len({mask.float().mean().item() for mask in outcome.masks.values()}) > 1, "layers differ"
    state = build_network(task, outcome).state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], entry.tensor) for name, entry in outcome.changed.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in task.base.model.state_dict().items())
    assert run(task, threshold_start=-3.0).masks == outcome.masks


def test_the_threshold_and_its_decay_decide_how_sparse_a_network_becomes(task: Task) -> None:
    def sparsity(**settings: Any) -> float:
        masks = run(task, **settings).masks
        assert masks is not None
        return masks.sparsity

    assert sparsity(threshold_start=-200.0) == 0
    higher, decayed, plain = (
        sparsity(threshold_start=-4.0),
        sparsity(threshold_start=-5.0, weight_decay=0.1),
        sparsity(threshold_start=-5.0, weight_decay=0.0),
    )
    assert 0 < plain < min(higher, decayed)


def test_a_ticket_holds_the_sparsity_that_emerged(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": "digits", "batch_size": 64, "val_fraction": 0.8, "steps": 2}
    folder = tmp_path / "t"
    trained = train_ticket(config_of("soft_threshold")(**settings, threshold_start=-4.0, output=str(folder)))
    assert trained.ticket.sparsity == "0.9", "as asked for, though nobody listened"
    held = read_artifact(folder / "jackpot")
    assert held.masks.hash() == trained.ticket.mask_hash
    assert 0 < held.masks.sparsity == trained.summary["sparsity"] < 0.9


def test_tied_weights_share_a_threshold_and_come_off_plain() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    model = Tied()
    weight, names = model.a.weight, [name for name, _ in model.named_parameters()]
    put_on(model, {"a.weight": SoftThreshold(-1.0)})
    assert torch.equal(model.a.weight, model.b.weight)
    assert bool((model.a.weight == 0).any())
    model(torch.ones(1, 4)).sum().backward()
    detach(model)
    assert model.a.weight is model.b.weight is weight
    assert [name for name, _ in model.named_parameters()] == names
