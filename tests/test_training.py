"""The loop and what goes into it: schedules, objective, teacher, norm statistics, record, accuracy."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from one_epoch import one_epoch
from torch import Tensor, nn

from timm_jackpot.base import Base, working_copy
from timm_jackpot.data import Batch
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.runtime.processes import Shard, make_accelerator, same_everywhere
from timm_jackpot.training import (
    Objective,
    Record,
    TrainFlags,
    average_norm_statistics,
    cosine,
    cubic_ramp,
    fit,
    learning_rate,
    make_optimizer,
    read_record,
    reestimate_norm_statistics,
    total_steps,
    uses_channels_last,
)

# -- schedules --------------------------------------------------------------------------------------


@given(steps=st.integers(1, 500), peak=st.floats(1e-6, 10))
def test_cosine_falls_from_peak_to_zero(steps: int, peak: float) -> None:
    path = [cosine(step, steps, peak=peak) for step in range(steps + 1)]
    assert path[0] == peak
    assert path[-1] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(path))


def test_cosine_is_half_way_in_the_middle() -> None:
    assert cosine(50, 100, peak=0.1) == pytest.approx(0.05)
    assert cosine(25, 100, peak=1) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_cosine_falls_from_the_peak_to_zero() -> None:
    path = [cosine(step, 20, peak=1.0) for step in range(21)]
    assert path[0] == 1.0
    assert path == sorted(path, reverse=True)
    assert path[-1] == pytest.approx(0)


@given(steps=st.integers(1, 500), fraction=st.floats(0, 1))
def test_the_cubic_ramp_rises_from_zero_to_one(steps: int, fraction: float) -> None:
    path = [cubic_ramp(step, steps, fraction=fraction) for step in range(steps + 1)]
    assert all(0 <= a <= b <= 1 for a, b in pairwise(path))
    assert path[-1] == 1.0
    assert path[0] == (0.0 if fraction * steps > 0 else 1.0)
    assert all(value == 1.0 for step, value in enumerate(path) if step >= fraction * steps)


def test_the_cubic_ramp_is_cubic() -> None:
    assert cubic_ramp(30, 100, fraction=0.6) == pytest.approx(1 - 0.5**3)
    assert cubic_ramp(0, 100, fraction=0) == 1.0


# -- objective --------------------------------------------------------------------------------------


def hand_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        log_p = row - torch.logsumexp(row, 0)
        classes = len(row)
        target = [smoothing / classes + (1 - smoothing) * (k == label) for k in range(classes)]
        total -= sum(t * p for t, p in zip(target, log_p.tolist(), strict=True))
    return total / len(labels)


def hand_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> float:
    total = 0.0
    for student, teacher in zip(logits.double() / temperature, teacher_logits.double() / temperature, strict=True):
        q, p = torch.softmax(student, 0), torch.softmax(teacher, 0)
        total += sum(b * math.log(b / a) for a, b in zip(q.tolist(), p.tolist(), strict=True))
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_a_teacher_the_objective_is_cross_entropy(smoothing: float) -> None:
    model, x, y = nn.Linear(5, 4), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = Objective(label_smoothing=smoothing)(model, x, y)
    assert loss.item() == pytest.approx(hand_cross_entropy(model(x), y, smoothing), rel=1e-5)


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 2.0), (0.8, 1.0), (1.0, 4.0), (0.0, 2.0)])
def test_with_a_teacher_the_objective_is_the_formula(weight: float, temperature: float) -> None:
    model, teacher = nn.Linear(5, 4), nn.Linear(5, 4)
    x, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = Objective(0.1, teacher, weight, temperature)(model, x, y)
    divergence = hand_divergence(model(x), teacher(x), temperature)
    expected = (1 - weight) * hand_cross_entropy(model(x), y, 0.1) + weight * temperature**2 * divergence
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_teacher_gets_no_gradient() -> None:
    model, teacher = nn.Linear(5, 4), nn.Linear(5, 4)
    Objective(0.0, teacher, 0.5)(model, torch.randn(3, 5), torch.tensor([0, 1, 2])).backward()
    assert model.weight.grad is not None
    assert teacher.weight.grad is None


# -- teacher ----------------------------------------------------------------------------------------


def test_a_working_copy_shares_parameters_but_its_own_and_owns_its_buffers(digits_base: Base) -> None:
    model = digits_base.model.requires_grad_(False)
    head = model.get_parameter("fc.weight")
    teacher = working_copy(model, own=["fc.weight"])
    shared = dict(teacher.named_parameters())
    for name, parameter in model.named_parameters():
        assert (shared[name].data_ptr() == parameter.data_ptr()) == (parameter is not head), name
        assert torch.equal(shared[name], parameter)
    buffers = dict(teacher.named_buffers())
    assert list(buffers) == [name for name, _ in model.named_buffers()]
    assert all(buffers[name].data_ptr() != buffer.data_ptr() for name, buffer in model.named_buffers())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_teachers_logits_do_not_drift_while_the_student_trains(digits_base: Base) -> None:
    teacher = digits_base.model.requires_grad_(False).eval()
    model = working_copy(teacher, own=["fc.weight"])
    model.get_parameter("fc.weight").requires_grad_(True)
    x, y = torch.randn(8, 3, 32, 32), torch.arange(8)
    before = teacher(x)
    optimizer = torch.optim.SGD([model.get_parameter("fc.weight")], 1.0)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        Objective(0.0, teacher, 0.5)(model, x, y).backward()
        optimizer.step()
    assert torch.equal(teacher(x), before)
    assert not torch.allclose(model.get_buffer("bn1.running_mean"), teacher.get_buffer("bn1.running_mean"))
    assert not torch.allclose(model.eval()(x), before)


# -- norm statistics --------------------------------------------------------------------------------


def normed_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Dropout(0.5),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5, momentum=0.01),
    )


def test_reestimated_statistics_are_the_plain_average_over_batches(accelerator: Accelerator) -> None:
    model = normed_net()
    batches = [torch.randn(n, 3, 8, 8) * n for n in (4, 7, 2)]
    expected: dict[str, Tensor] = {name: torch.zeros_like(b) for name, b in model.named_buffers() if "running" in name}
    with torch.no_grad():
        for batch in batches:
            first = model[0](batch)
            second = model[3](F.batch_norm(first, None, None, model[1].weight, model[1].bias, training=True))  # pyright: ignore
            for index, value in ((1, first), (4, second)):
                expected[f"{index}.running_mean"] += value.mean((0, 2, 3)) / 3
                expected[f"{index}.running_var"] += value.var((0, 2, 3), unbiased=True) / 3
    reestimate_norm_statistics(model, batches, accelerator)
    for name, value in expected.items():
        torch.testing.assert_close(model.get_buffer(name), value, rtol=1e-4, atol=1e-5)


def test_reestimating_restores_momenta_and_modes(accelerator: Accelerator) -> None:
    model = normed_net().train()
    model[2].eval()
    model[4].eval()
    modes = [module.training for module in model.modules()]
    parameters = [p.clone() for p in model.parameters()]
    reestimate_norm_statistics(model, [torch.randn(4, 3, 8, 8)], accelerator)
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[4].momentum) == (0.3, 0.01)
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), parameters, strict=True))


def test_reestimating_with_one_image_at_a_time_is_told_in_a_sentence(accelerator: Accelerator) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    with pytest.raises(TrainingError, match="batch norm needs more than one image per process: raise --batch-size"):
        reestimate_norm_statistics(model, [torch.randn(1, 3, 8, 8)], accelerator)


def test_reestimating_forgets_what_was_there(accelerator: Accelerator) -> None:
    batches = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    model = normed_net()
    reestimate_norm_statistics(model, batches, accelerator)
    first = model[1].running_mean.clone()  # pyright: ignore
    with torch.no_grad():
        model[1].running_mean.fill_(100)  # pyright: ignore
    reestimate_norm_statistics(model, batches, accelerator)
    torch.testing.assert_close(model[1].running_mean, first)


def test_a_model_without_running_statistics_is_left_alone(accelerator: Accelerator) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Dropout(0.5)).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reestimate_norm_statistics(model, [torch.randn(2, 3)], accelerator)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training


def test_one_process_keeps_its_statistics(accelerator: Accelerator) -> None:
    model = normed_net()
    model(torch.randn(4, 3, 8, 8))
    before = model[1].running_var.clone()  # pyright: ignore
    average_norm_statistics(model, accelerator)
    assert torch.equal(model[1].running_var, before)  # pyright: ignore


# -- the loop ---------------------------------------------------------------------------------------


class Points:
    """A source of labelled points in two separable clouds, always in the same order."""

    def __init__(self, n: int = 40) -> None:
        self.labels = torch.arange(n) % 2
        self.points = torch.randn(n, 3) + 3 * self.labels[:, None]

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(self, *, seed: int, batch_size: int, shard: Shard, first: int = 0) -> Iterator[Batch]:
        for number in itertools.count(first):
            low = number % (len(self) // batch_size) * batch_size
            yield Batch(self.points[low : low + batch_size], self.labels[low : low + batch_size])

    def eval_batches(self, *, batch_size: int, shard: Shard) -> Iterator[Batch]:
        yield from (
            Batch(*pair) for pair in zip(self.points.split(batch_size), self.labels.split(batch_size), strict=True)
        )


def run_fit(accelerator: Accelerator, model: nn.Module, source: Points, *, steps: int, **kwargs: Any) -> Record:
    record = Record()
    settings: dict[str, Any] = {"lr_at": lambda step: 0.1, "batch_size": 8, "title": "test", "seed": 0} | kwargs
    optimizer = torch.optim.SGD(model.parameters(), 1e9)  # the schedule sets the rate, not this
    fit(
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        objective=Objective(),
        train=source,
        steps=steps,
        record=record,
        **settings,
    )
    return record


def test_fit_lowers_the_loss_and_records_it(accelerator: Accelerator) -> None:
    model, hooks = nn.Linear(3, 2), []
    record = run_fit(
        accelerator,
        model.eval(),
        Points(),
        steps=25,
        lr_at=lambda step: 0.1 / (1 + step),
        before_step=hooks.append,
        figures=lambda: {"sparsity": 0.5},
    )
    events = list(record.of("step"))
    assert [event["step"] for event in events] == [0, 10, 20, 24]
    assert [event["lr"] for event in events] == [0.1 / (1 + step) for step in (0, 10, 20, 24)]
    assert all(event["sparsity"] == 0.5 for event in events)
    assert events[-1]["loss"] < events[0]["loss"]
    assert hooks == list(range(25))
    assert model.training


def test_fit_does_what_plain_sgd_would(accelerator: Accelerator) -> None:
    model, by_hand, source = nn.Linear(3, 2), nn.Linear(3, 2), Points()
    by_hand.load_state_dict(model.state_dict())
    run_fit(accelerator, model, source, steps=7, lr_at=lambda step: 0.1 - 0.01 * step)
    batches = [*one_epoch(source, seed=0, epoch=0, batch_size=8, shard=Shard())] * 2
    for step, (x, y) in enumerate(batches[:7]):
        by_hand.zero_grad()
        F.cross_entropy(by_hand(x), y).backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= (0.1 - 0.01 * step) * p.grad  # pyright: ignore
    torch.testing.assert_close(model.weight, by_hand.weight)
    torch.testing.assert_close(model.bias, by_hand.bias)


def test_accumulated_batches_equal_one_large_batch(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    model, large, source = nn.Linear(3, 2), nn.Linear(3, 2), Points(48)
    large.load_state_dict(model.state_dict())
    whole = run_fit(accelerator, large, source, steps=3, batch_size=16)
    parts = run_fit(make_accelerator(seed=0, grad_accum_steps=2), model, source, steps=3, batch_size=8)
    torch.testing.assert_close(model.weight, large.weight)
    assert parts.events[0]["loss"] == pytest.approx(whole.events[0]["loss"], rel=1e-5)


def test_no_steps_leave_the_model_as_it_is(accelerator: Accelerator) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    record = run_fit(accelerator, model, Points(), steps=0)
    assert torch.equal(model.weight, before)
    assert record.events == []


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(accelerator: Accelerator) -> None:
    source = Points()
    source.points[0] = float("nan")
    with pytest.raises(TrainingError, match=r"not a number at step 0: lower --lr \(now 0\.1\)"):
        run_fit(accelerator, nn.Linear(3, 2), source, steps=5)


@pytest.mark.parametrize(("log_every", "steps", "stopped_at"), [(2, 20, 4), (10, 20, 10), (10, 6, 5), (1, 20, 3)])
def test_a_run_that_diverges_later_stops_at_the_next_reading(
    accelerator: Accelerator, log_every: int, steps: int, stopped_at: int
) -> None:
    rates = {2: float("inf")}  # spoils what step 3 sees
    with pytest.raises(TrainingError, match=f"not a number at step {stopped_at}:"):
        run_fit(
            accelerator,
            nn.Linear(3, 2),
            Points(),
            steps=steps,
            lr_at=lambda step: rates.get(step, 0.1),
            log_every=log_every,
        )


# -- flags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "per_epoch", "steps"),
    [
        ({"steps": 7}, 100, 7),
        ({"steps": 0}, 100, 0),
        ({"epochs": 2}, 100, 200),
        ({"epochs": 0.5}, 9, 4),
        ({"epochs": 0.001}, 9, 1),
        ({}, 10, 30),
        ({"epochs": 2, "grad_accum_steps": 3}, 10, 6),
        ({"steps": 7, "grad_accum_steps": 3}, 10, 7),
    ],
)
def test_steps_of_a_run(flags: dict[str, float], per_epoch: int, steps: int) -> None:
    assert total_steps(TrainFlags(**flags), per_epoch, default_epochs=3) == steps  # pyright: ignore


def test_steps_and_epochs_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="give --steps or --epochs, not both"):
        total_steps(TrainFlags(steps=3, epochs=1), 10, default_epochs=3)


@pytest.mark.parametrize(("per_epoch", "accumulate"), [(0, 1), (2, 3)])
def test_a_training_split_smaller_than_a_step_is_refused(per_epoch: int, accumulate: int) -> None:
    with pytest.raises(ConfigError, match="lower --batch-size"):
        total_steps(TrainFlags(steps=3, grad_accum_steps=accumulate), per_epoch, default_epochs=3)


def test_flags_name_the_optimizer() -> None:
    weight = nn.Parameter(torch.zeros(2))
    sgd = make_optimizer(TrainFlags(lr=0.3, momentum=0.8, weight_decay=0.01), [weight])
    adam = make_optimizer(TrainFlags(opt="adam", lr=0.3, momentum=0.8, weight_decay=0.01), [weight])
    assert isinstance(sgd, torch.optim.SGD)
    assert isinstance(adam, torch.optim.Adam)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.3, 0.8, 0.01)
    assert (adam.defaults["lr"], adam.defaults["betas"][0], adam.defaults["weight_decay"]) == (0.3, 0.8, 0.01)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ({}, {0: 1.0, 50: 0.5, 100: 0.0}),
        ({"lr_schedule": "constant"}, {0: 1.0, 50: 1.0, 99: 1.0}),
        ({"lr_schedule": "step"}, {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        # 0.55 · 100 is above 55 in floating point.
        ({"lr_schedule": "step", "lr_milestones": (0.9, 0.55), "lr_decay": 0.5}, {54: 1.0, 55: 0.5, 89: 0.5, 90: 0.25}),
    ],
    ids=["cosine", "constant", "step", "own milestones"],
)
def test_flags_choose_the_schedule_of_the_learning_rate(flags: dict[str, object], rates: dict[int, float]) -> None:
    chosen = TrainFlags(lr=1.0, **flags)  # pyright: ignore
    assert {step: learning_rate(chosen, step, 100) for step in rates} == pytest.approx(rates)


def test_a_milestone_is_a_fraction_of_the_run() -> None:
    with pytest.raises(ConfigError, match=r"--lr-milestones .*less than 1"):
        TrainFlags(lr_schedule="step", lr_milestones=(0.5, 80))


def test_channels_last_is_the_default_on_gpus_alone() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [uses_channels_last(TrainFlags(), device) for device in (cpu, gpu)] == [False, True]
    for asked in (True, False):
        assert [uses_channels_last(TrainFlags(channels_last=asked), device) for device in (cpu, gpu)] == [asked] * 2


# -- processes --------------------------------------------------------------------------------------


def test_an_accelerator_seeds_everything_random(accelerator: Accelerator) -> None:
    draws = []
    for seed in (1, 1, 2):
        make_accelerator(seed=seed)
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert accelerator.num_processes == 1


def test_one_process_agrees_with_itself(accelerator: Accelerator) -> None:
    assert same_everywhere("abc", accelerator, "the mask") == ["abc"]


def test_a_compiling_launcher_is_refused(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ConfigError, match="dynamo"):
        make_accelerator(seed=0)


# -- record -----------------------------------------------------------------------------------------


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.jsonl")
    record.write("step", step=0, loss=0.1 + 0.2, lr=1e-9)
    record.write("validation", top1=12.5, note="ünï\n", nothing=None)
    lines = (tmp_path / "record.jsonl").read_text(encoding="utf-8")  # readable before it is closed
    record.close()
    assert lines == record.lines()
    assert [json.loads(line)["kind"] for line in lines.splitlines()] == ["step", "validation"]
    again = read_record(tmp_path / "record.jsonl")
    assert again.events == record.events
    assert again.lines() == record.lines()
    assert list(again.of("validation")) == [{"kind": "validation", "top1": 12.5, "note": "ünï\n", "nothing": None}]


def test_a_record_without_a_file_only_keeps_its_events() -> None:
    record = Record()
    record.write("step", step=1)
    record.close()
    assert record.events == [{"kind": "step", "step": 1}]


def test_a_record_holds_no_nan(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.write("step", loss=float("nan"))
    record.close()
    assert (tmp_path / "record.jsonl").read_text() == ""


# -- accuracy ---------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Puts the true label (the image's first pixel) at rank `image's second pixel` among ten answers."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes = classes
        self.modes: list[bool] = []
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        logits = torch.zeros(len(images), self.classes)
        for row, (label, rank) in zip(logits, images[:, 0, 0, :2].round().long().tolist(), strict=True):
            others = [k for k in range(self.classes) if k != label]
            for place, answer in enumerate([*others[:rank], label, *others[rank:]]):
                row[answer] = -place
        return logits


def ranked(ranks: list[int], classes: int = 10) -> MemoryImages:
    labels = torch.arange(len(ranks)) % classes
    images = torch.zeros(len(ranks), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels.byte(), torch.tensor(ranks).byte()
    return MemoryImages(images, labels, (0.0,), (1 / 255,), 0.0, 0)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_accuracy_counts_every_image_once(accelerator: Accelerator, batch_size: int) -> None:
    source = ranked([0, 1, 4, 5, 9, 0, 0, 3, 2, 6, 0])
    accuracy = evaluate_accuracy(Oracle(), source, batch_size=batch_size, accelerator=accelerator)
    assert accuracy == (pytest.approx(100 * 4 / 11), pytest.approx(100 * 8 / 11), 11)


def test_top5_of_fewer_classes_is_everything(accelerator: Accelerator) -> None:
    accuracy = evaluate_accuracy(Oracle(3), ranked([0, 1, 2], 3), batch_size=2, accelerator=accelerator)
    assert accuracy == (pytest.approx(100 / 3), 100.0, 3)


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_is_measured_in_eval_mode_and_the_mode_restored(accelerator: Accelerator, training: bool) -> None:
    model = Oracle().train(training)
    evaluate_accuracy(model, ranked([0, 1, 2]), batch_size=2, accelerator=accelerator)
    assert model.modes == [False, False]
    assert [module.training for module in model.modules()] == [training, training]


def test_modules_that_were_frozen_in_eval_mode_stay_so(accelerator: Accelerator) -> None:
    model = Oracle().train()
    model.dropout.eval()
    evaluate_accuracy(model, ranked([0]), batch_size=1, accelerator=accelerator)
    assert [module.training for module in model.modules()] == [True, False]


def test_measuring_accuracy_moves_no_statistics(accelerator: Accelerator, digits_base: Base) -> None:
    model: Callable[..., Any] = digits_base.model.train()
    before = {name: tensor.clone() for name, tensor in digits_base.model.state_dict().items()}
    images = MemoryImages(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), torch.arange(5), (0.5,) * 3, (0.5,) * 3, 0, 0)
    evaluate_accuracy(digits_base.model, images, batch_size=2, accelerator=accelerator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in digits_base.model.state_dict().items())
    assert model(torch.zeros(2, 3, 32, 32)).requires_grad
