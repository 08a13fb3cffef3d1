"""What changes along a search besides the scores: how wide the window is in which they learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from timm_jackpot.methods import ScoreSettings, ScoreTraining, Start
from timm_jackpot.methods.score_training import Schedule


def make_start(model: nn.Linear) -> Start:
    return Start({"weight": model.weight.detach().abs()}, {"weight": 8})


def gradient_of(training: ScoreTraining, model: nn.Linear) -> torch.Tensor:
    layer = training.adapter["weight"]
    layer.scores.grad = None
    model(torch.ones(1, 8)).sum().backward()
    assert layer.scores.grad is not None
    return layer.scores.grad


def test_the_window_narrows_to_a_tenth_by_equal_factors() -> None:
    schedule = Schedule(make_start(nn.Linear(8, 4)), ScoreSettings(), 300)
    shares = [schedule.narrowing(step) for step in range(0, 301, 100)]
    assert shares == pytest.approx([1, 0.1 ** (1 / 3), 0.1 ** (2 / 3), 0.1])
    assert Schedule(schedule.start, ScoreSettings(), 0).narrowing(5) == 1


def test_a_resumed_run_has_the_window_of_its_step() -> None:
    settings, model, again = ScoreSettings(refresh_interval=10), nn.Linear(8, 4), nn.Linear(8, 4)
    again.load_state_dict(model.state_dict())
    whole, resumed = (
        ScoreTraining(net, make_start(net), settings, steps=100, first_step=first)
        for net, first in ((model, 0), (again, 37))
    )
    for step in range(38):
        whole.before_step(step)
    resumed.before_step(37)
    assert torch.equal(gradient_of(whole, model), gradient_of(resumed, again))
    for step in range(38, 61):
        whole.before_step(step)
    assert not torch.equal(gradient_of(whole, model), gradient_of(resumed, again))


def test_while_nothing_is_removed_no_score_learns() -> None:
    model = nn.Linear(8, 4)
    training = ScoreTraining(model, make_start(model), ScoreSettings(), steps=100)
    assert not gradient_of(training, model).any()
    training.before_step(10)
    assert gradient_of(training, model).all()


def test_without_a_window_every_score_learns() -> None:
    model = nn.Linear(8, 4)
    training = ScoreTraining(model, make_start(model), ScoreSettings(window=0, schedule="constant"), steps=100)
    assert torch.equal(gradient_of(training, model), model.parametrizations.weight.original.detach())  # pyright: ignore


def test_with_a_head_that_is_trained_every_score_learns() -> None:
    model = nn.Linear(8, 4)
    settings = ScoreSettings(schedule="constant")
    training = ScoreTraining(model, make_start(model), settings, steps=100, trains_head=True)
    assert torch.equal(gradient_of(training, model), model.parametrizations.weight.original.detach())  # pyright: ignore
