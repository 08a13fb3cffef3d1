"""Searches in random weights: Zhou's Bernoulli masks, and uniform random scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from timm_jackpot.adapter import ScoreAdapter, attach
from timm_jackpot.base import norm_affine
from timm_jackpot.experiments.sweeps import SweepConfig, plan_grid
from timm_jackpot.methods import Budget, Outcome, ScoreTraining, Task, build_network, method
from timm_jackpot.methods.fresh import with_open_branches, with_random_weights
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.supermask import SupermaskSettings, draw, through_sigmoid
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.search import SearchConfig
from timm_jackpot.search.task import open_task

BUDGET = Budget("0.9", "erk", steps=4, seed=2)


@pytest.fixture(scope="module")
def task() -> Task:
    config = SearchConfig(dataset="digits", batch_size=64, val_fraction=0.8, steps=4)
    return open_task(config, None, make_accelerator(seed=0))[0]


def run(task: Task, **settings: Any) -> Outcome:
    return method("supermask").run(task, BUDGET, SupermaskSettings(**settings))


def small() -> tuple[nn.Linear, ScoreAdapter]:
    layer = nn.Linear(40, 30, bias=False)
    adapter = attach(layer, {"weight": torch.randn(30, 40)}, {"weight": 1200})
    return layer, adapter


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_forward_and_gradient_are_those_of_the_paper() -> None:
    layer, adapter = small()
    scores, weight = adapter["weight"].scores, layer.parametrizations.weight.original  # pyright: ignore
    optimizer = torch.optim.SGD([scores], lr=2.0)
    through_sigmoid(optimizer, adapter)
    draw(adapter, generator(5))
    s, w = scores.detach().double().numpy().copy(), weight.detach().double().numpy()
    p = 1 / (1 + np.exp(-s))
    bernoulli = torch.rand(30, 40, generator=generator(5)).double().numpy() < p
    x = torch.randn(7, 40)
    out = layer(x)
    np.testing.assert_allclose(out.detach().numpy(), x.numpy() @ (w * bernoulli).T, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    optimizer.step()
    effective = 2 * out.detach().double().numpy().T @ x.double().numpy()  # ∂L/∂w_eff
    expected = s - 2.0 * effective * w * p * (1 - p)  # of removed weights too
    np.testing.assert_allclose(scores.detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_weights_are_kept_as_often_as_their_scores_say() -> None:
    layer, adapter = small()
    often, draws = torch.zeros(30, 40), 1500
    for seed in range(draws):
        draw(adapter, generator(seed))
        often += layer.weight.detach() != 0
    probability = adapter["weight"].scores.detach().sigmoid()
    spread = (probability * (1 - probability) / draws).sqrt()
    assert bool(((often / draws - probability).abs() < 5 * spread).all())


def test_a_run_draws_the_same_masks_again_and_changes_no_weight(task: Task) -> None:
    outcome = run(task)
    assert outcome.masks is not None
    assert 0.4 < outcome.masks.sparsity < 0.6, "whatever the budget says"
    again = run(task, lr=1e-12)
    assert again.masks is not None
    assert again.masks != outcome.masks, "scores have moved"
    assert run(task).masks == outcome.masks
    torch.manual_seed(BUDGET.seed)
    fresh = with_open_branches(with_random_weights(task)).base.model.state_dict()
    network = build_network(task, outcome).state_dict()
    for name, mask in outcome.masks.items():
        assert torch.equal(outcome.changed[name].tensor, fresh[name])
        assert torch.equal(network[name], fresh[name] * mask)


def test_probabilities_move_apart(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ScoreAdapter] = []
    monkeypatch.setattr(
        "timm_jackpot.methods.supermask.draw", lambda adapter, g: (seen.append(adapter), draw(adapter, g))
    )
    run(task, lr=1000.0)
    probabilities = torch.cat([scores.detach().sigmoid().flatten() for scores in seen[-1].scores()])
    assert len(seen) == BUDGET.steps + 1
    assert probabilities.std() > 0.01


def test_random_networks_are_searched_with_open_branches(task: Task) -> None:
    """timm's ResNets start with a zero scale at the end of each block: frozen, it would let no gradient through."""
    timms = with_random_weights(task)
    assert any(not bool(values.any()) for values in start_from("snip", timms, BUDGET).scores.values())
    fresh = with_open_branches(timms)
    assert all(bool(scale.all()) for name, scale in norm_affine(fresh.base.model).items() if name.endswith("weight"))
    scores = start_from("snip", fresh, BUDGET).scores
    assert all(bool(values.any()) for values in scores.values())


def test_scores_of_fig_2_are_uniform(task: Task) -> None:
    cells = plan_grid(SweepConfig(sweep="fig2_random_init", output="unused"))
    assert {cell.axes["pretrained"] for cell in cells} == {True, False}
    for cell in cells:
        settings = next(iter(cell.searches.values()))
        budget = Budget(str(settings.sparsity), settings.allocation, steps=4, seed=0)
        start = start_from(settings.criterion, task, budget)
        scores = ScoreTraining(with_random_weights(task).base.model, start, settings, steps=4).adapter  # pyright: ignore
        values = torch.cat([layer.scores.detach().flatten() for layer in scores.values()])
        assert 0 <= float(values.min()) < 1e-3
        assert 0.95 < float(values.max()) < 1.05
        quartiles = values.quantile(torch.tensor([0.25, 0.5, 0.75]))
        torch.testing.assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.01, rtol=0)
        shares = [kept / start.sizes[name] for name, kept in start.kept.items()]
        assert max(shares) - min(shares) < 0.01, "the same fraction of every layer"
