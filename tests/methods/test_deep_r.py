"""Deep R against Algorithm 1 of its paper, written in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from timm_jackpot.methods import Budget, Task, method
from timm_jackpot.methods.fresh import with_random_weights
from timm_jackpot.methods.sparse.deep_r import DeepRSettings
from timm_jackpot.methods.sparse.network import SparseWeights, Update
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.search import SearchConfig
from timm_jackpot.search.task import open_task
from timm_jackpot.training import learning_rate

BUDGET = Budget("0.8", "erk", steps=4, seed=3)


class Rewiring(NamedTuple):
    """The weights and masks of one layer around what happens after a step, and its momentum at the end."""

    step: int
    name: str
    stepped: np.ndarray
    before: np.ndarray
    weight: np.ndarray
    mask: np.ndarray
    momentum: np.ndarray


@pytest.fixture(scope="module")
def task() -> Task:
    config = SearchConfig(dataset="digits", batch_size=64, val_fraction=0.8, steps=4)
    return open_task(config, None, make_accelerator(seed=0))[0]


@pytest.fixture
def rewirings(monkeypatch: pytest.MonkeyPatch) -> list[Rewiring]:
    seen: list[Rewiring] = []
    let_change = SparseWeights._let_change

    def watch(self: SparseWeights, update: Update) -> None:
        held = [(w.detach().numpy().copy(), self.masks[name].numpy().copy()) for name, w in self.weights.items()]
        let_change(self, update)
        if update is self._update:  # before the step
            return
        for (stepped, before), (name, weight) in zip(held, self.weights.items(), strict=True):
            momentum = self._optimizer.state[weight]["momentum_buffer"]
            after = (weight.detach(), self.masks[name], momentum)
            seen.append(Rewiring(self._step, name, stepped, before, *(tensor.numpy().copy() for tensor in after)))

    monkeypatch.setattr(SparseWeights, "_let_change", watch)
    return seen


def initial_signs(task: Task) -> dict[str, np.ndarray]:
    torch.manual_seed(BUDGET.seed)  # as a method's run does
    fresh = with_random_weights(task).maskable.weights
    return {name: np.where(weight.detach().numpy() < 0, -1, 1) for name, weight in fresh.items()}


def test_each_step_is_that_of_the_paper(task: Task, rewirings: list[Rewiring]) -> None:
    settings = DeepRSettings(l1=0.01)
    method("deep_r").run(task, BUDGET, settings)
    signs = initial_signs(task)
    assert len(rewirings) == BUDGET.steps * len(signs)
    returned = 0
    for one in rewirings:
        lr = learning_rate(settings, one.step - 1, BUDGET.steps)
        theta = np.float32(signs[one.name]) * one.stepped - np.float32(lr * settings.l1)
        left = one.before & (theta >= 0)
        dropped = one.before & ~left
        grown = one.mask & ~left
        assert one.mask.sum() == one.before.sum(), "as many grow as are dropped"
        np.testing.assert_allclose(one.weight, np.where(left, signs[one.name] * theta, 0), rtol=1e-5, atol=1e-8)
        assert not (one.mask & ~left & (one.weight != 0)).any(), "what has grown starts at zero"
        assert not one.momentum[dropped | ~one.mask].any()
        assert grown.sum() == dropped.sum()
        returned += int((grown & dropped).sum())
    assert any((one.before & ~one.mask).any() for one in rewirings)
    assert returned, "what has just been dropped may grow again"


def test_noise_has_the_spread_of_the_temperature(task: Task, rewirings: list[Rewiring]) -> None:
    settings = DeepRSettings(l1=0.0, temperature=1e-6)
    method("deep_r").run(task, BUDGET, settings)
    for step in range(1, BUDGET.steps + 1):
        of_step = [one for one in rewirings if one.step == step]
        # Where weights are far from zero, noise drops none of them, and all of it is seen.
        far = [one.before & (one.weight != 0) & (np.abs(one.stepped) > 0.01) for one in of_step]
        noise = np.concatenate([(one.weight - one.stepped)[where] for one, where in zip(of_step, far, strict=True)])
        lr = learning_rate(settings, step - 1, BUDGET.steps)
        assert noise.std() == pytest.approx((2 * lr * settings.temperature) ** 0.5, rel=0.1)
        assert abs(noise.mean()) < 4 * noise.std() / len(noise) ** 0.5


def test_a_layer_that_is_nearly_dense_has_room_enough(task: Task) -> None:
    outcome = method("deep_r").run(task, replace(BUDGET, sparsity="0.02"))
    assert outcome.masks is not None
    assert outcome.start is not None
    assert outcome.masks.kept_per_layer() == outcome.start.kept_per_layer()
