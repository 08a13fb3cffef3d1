"""What people see while a run goes: steps, time left, the latest figures."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from accelerate import Accelerator
from tqdm import tqdm

from timm_jackpot.base import Base
from timm_jackpot.data import DataFlags, open_data
from timm_jackpot.evaluation import evaluate_accuracy, predict
from timm_jackpot.runtime.progress import Progress
from timm_jackpot.training import Record, recalibrate
from timm_jackpot.training.loop import _latest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by the test."""
    now = [0.0]
    monkeypatch.setattr("timm_jackpot.runtime.progress.time.monotonic", lambda: now[0])
    return now


def lines(clock: list[float], capsys: pytest.CaptureFixture[str], *, done: int = 0, **settings: object) -> list[str]:
    with Progress(100, "search", done=done, **settings) as progress:  # pyright: ignore
        for step in range(done, 100):
            clock[0] += 3
            progress.advance({"loss": step / 100, "sparsity": 0.9, "validation": 98.333} if step % 10 == 0 else None)
    return capsys.readouterr().err.splitlines()


def test_lines_tell_the_time_left_and_the_latest_figures(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    said = lines(clock, capsys, enabled=True)
    assert len(said) == 11
    assert said[0] == "search: step 3/100, 04:51 left, loss 0, sparsity 0.9, validation 98.33"
    assert said[1] == "search: step 10/100, 04:30 left, loss 0, sparsity 0.9, validation 98.33"
    assert said[2] == "search: step 20/100, 04:00 left, loss 0.1, sparsity 0.9, validation 98.33"
    assert said[10] == "search: step 100/100, 00:00 left, loss 0.9, sparsity 0.9, validation 98.33"


def test_a_run_that_goes_on_reads_as_if_it_had_not_stopped(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """The time left is reckoned from this life alone: the machine may be another one."""
    before = lines(clock, capsys, enabled=True)
    clock[0] += 10_000
    figures = {"loss": 0.4, "sparsity": 0.9, "validation": 98.333}
    assert lines(clock, capsys, enabled=True, done=45, figures=figures)[1:] == before[5:]


@pytest.mark.parametrize("seconds", [0.1, 3, 9.9, 25])
def test_the_first_line_comes_within_ten_seconds_and_then_one_a_minute(
    seconds: float, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Or with the step, where steps are longer."""
    times = [0.0]
    with Progress(5000, "search", enabled=True) as progress:
        for _ in range(5000):
            clock[0] += seconds
            progress.advance()
            times += [clock[0]] * len(capsys.readouterr().err.splitlines())
    assert 0 < times[1] <= max(10, seconds)
    assert max(after - before for before, after in pairwise(times)) <= 60.001
    assert len(times) - 1 <= 11 + times[-1] / (60 - seconds)


def test_a_short_run_says_no_more_than_its_tenths(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(20, "search", enabled=True) as progress:
        for _ in range(20):
            clock[0] += 0.1
            progress.advance()
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_an_evaluation_says_nothing_unless_it_takes_long(
    clock: list[float], capsys: pytest.CaptureFixture[str], accelerator: Accelerator, digits_base: Base
) -> None:
    test = open_data(DataFlags(), digits_base.model, device=accelerator.device).test
    digits_base.model.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + clock[1]))

    def said(seconds: float, evaluate: Callable[..., object]) -> list[str]:
        clock[:] = [0.0, seconds]
        evaluate(digits_base.model, test, batch_size=50, accelerator=accelerator)  # 599 images
        return capsys.readouterr().err.splitlines()

    for evaluate in (evaluate_accuracy, predict):
        assert said(0.5, evaluate) == []
        assert said(4, evaluate) == ["evaluation: batch 2/12, 00:40 left"]
        assert said(9, evaluate) == ["evaluation: batch 1/12, 01:39 left", "evaluation: batch 7/12, 00:45 left"]


def test_so_does_a_calibration(
    clock: list[float], capsys: pytest.CaptureFixture[str], accelerator: Accelerator, digits_base: Base
) -> None:
    data = open_data(DataFlags(), digits_base.model, device=accelerator.device)
    digits_base.model.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 8))
    recalibrate(digits_base.model, data, 100, accelerator, images=300)
    assert capsys.readouterr().err.splitlines() == ["norm statistics: batch 1/3, 00:16 left"]


def test_other_processes_say_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(clock, capsys, enabled=False) == []


def test_a_bar_on_a_terminal_has_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that outlives the test
    with Progress(4, "search", enabled=True) as progress:
        for _ in range(4):
            progress.advance({"loss": 0.5, "churn": 0.25})
        with Progress(4, "evaluation", enabled=True, only_if_long=True) as inner:
            inner.advance()
    assert "evaluation" not in terminal.getvalue()
    last = terminal.getvalue().split("\r")[-1]
    assert re.search(r"search: 100%.* 4/4 \[\d\d:\d\d<00:00, .*loss 0\.5, churn 0\.25\]", last), last


def test_the_latest_figures_are_those_on_record() -> None:
    record = Record()
    assert _latest(record) == {}
    record.write("step", step=0, lr=0.1, loss=2.0, churn=0.5)
    assert _latest(record) == {"loss": 2.0, "churn": 0.5}
    record.write("validation", step=5, top1=80.0, n=10)
    record.write("validation", step=9, top1=90.0, n=10)
    record.write("step", step=10, lr=0.1, loss=1.0, churn=0.25)
    assert _latest(record) == {"loss": 1.0, "churn": 0.25, "validation": 90.0}
