"""Runs that are stopped and go on: nothing lost, nothing different."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from timm_jackpot.artefact import read_artefact
from timm_jackpot.errors import ArtefactError, ConfigError, RunInterrupted, TrainingError
from timm_jackpot.lock import locked
from timm_jackpot.search import SearchConfig, SearchResult, search_jackpot
from timm_jackpot.search.life import Life
from timm_jackpot.search.state import SearchState
from timm_jackpot.training import checkpoint, read_record

STEPS = 20
SETTINGS = {"steps": STEPS, "batch_size": 256, "recalibrate_batches": 2}  # five epochs


def search(folder: Path, **settings: object) -> SearchResult:
    return search_jackpot(SearchConfig(**{**SETTINGS, "output": str(folder), **settings}))  # pyright: ignore


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Let the process get a signal in the given step."""
    after_step = Life.after_step

    def with_signal(self: Life, done: int, steps: int, state: SearchState) -> None:
        if done == step and self.resumed is None:
            os.kill(os.getpid(), number)
        after_step(self, done, steps, state)

    monkeypatch.setattr(Life, "after_step", with_signal)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search(tmp_path_factory.mktemp("whole") / "j")


def same(one: SearchResult, other: SearchResult) -> bool:
    extras = [result.jackpot.extras for result in (one, other)]
    return one.jackpot.masks == other.jackpot.masks and all(
        torch.equal(extra.tensor, extras[1][name].tensor) for name, extra in extras[0].items()
    )


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (7, {}),  # in the middle of an epoch and of the ramp
        (12, {"refresh_interval": 5}),  # with a mask older than the scores
        (9, {"opt": "adam", "train_norm": True, "mixup": 0.3, "grad_accum_steps": 2, "batch_size": 64}),
    ],
    ids=["default", "old mask", "everything moves"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    step: int, settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = search(tmp_path / "whole", **settings)
    stop_after(monkeypatch, step)
    sentence = rf"by SIGTERM after step {step} of {STEPS}; go on with --resume auto --output .*/part"
    with pytest.raises(RunInterrupted, match=sentence) as stopped:
        search(tmp_path / "part", **settings)
    assert stopped.value.signal == signal.SIGTERM
    assert not (tmp_path / "part" / "config.json").exists()
    torch.manual_seed(99)  # whatever the next process draws before
    resumed = search(tmp_path / "part", resume="auto", **settings)
    assert same(uninterrupted, resumed)
    assert not (tmp_path / "part" / "checkpoints").exists(), "the artefact takes their place"

    records = [read_record(tmp_path / name / "record.jsonl") for name in ("whole", "part")]
    assert list(records[0].of("step")) == list(records[1].of("step"))
    assert [event["step"] for event in records[1].of("resume")] == [step]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_checkpoints_come_every_so_many_steps_and_the_last_two_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: SearchResult
) -> None:
    stop_after(monkeypatch, 17)
    with pytest.raises(RunInterrupted):
        search(tmp_path / "j", checkpoint_steps=5)
    kept = sorted(path.name for path in (tmp_path / "j" / "checkpoints").iterdir())
    assert kept == ["step-00000015", "step-00000017"]
    older = tmp_path / "j" / "checkpoints" / "step-00000015"
    assert same(whole, search(tmp_path / "j", resume=str(older), checkpoint_steps=7))


def test_an_unfinished_run_is_neither_lost_nor_mistaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 4)
    with pytest.raises(RunInterrupted):
        search(tmp_path / "j")
    with pytest.raises(ConfigError, match="holds an unfinished run: go on with --resume auto, or discard it with"):
        search(tmp_path / "j")
    with pytest.raises(
        ConfigError, match=r"other settings \(lr 0\.05, not 0\.1; seed|other settings \(lr 0\.05, not 0\.1"
    ):
        search(tmp_path / "j", resume="auto", lr=0.1)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(True)
    with pytest.raises(ConfigError, match=r"worked on other settings \(mixed_precision 'no', not 'bf16'\)"):
        search(tmp_path / "j", resume="auto")
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    AcceleratorState._reset_state(True)
    with pytest.raises(ConfigError, match="holds no complete checkpoint"):
        search(tmp_path / "j", resume=str(tmp_path))
    monkeypatch.undo()
    assert search(tmp_path / "j", overwrite=True, steps=2).summary["steps"] == 2


def test_resume_auto_starts_anew_where_there_is_nothing(tmp_path: Path, whole: SearchResult) -> None:
    assert same(whole, search(tmp_path / "j", resume="auto"))
    with pytest.raises(ConfigError, match="--resume auto needs --output"):
        search_jackpot(SearchConfig(resume="auto"))


def test_a_full_disk_stops_the_run_and_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: SearchResult
) -> None:
    save_file, calls = checkpoint.save_file, []

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*free some space, then go on with --resume auto"):
        search(tmp_path / "j", checkpoint_steps=6)
    assert [path.name for path in (tmp_path / "j" / "checkpoints").iterdir()] == ["step-00000006"]
    monkeypatch.undo()
    assert same(whole, search(tmp_path / "j", resume="auto"))


def test_a_full_disk_at_the_end_leaves_no_half_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("timm_jackpot.artefact.save._write_synced", full)
    with pytest.raises(ArtefactError, match="could not be written: No space left on device"):
        search(tmp_path / "j", steps=1)
    assert not (tmp_path / "j" / "config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "j"),
        pytest.raises(ConfigError, match=rf"another run \(process {os.getpid()}\) is"),
    ):
        search(tmp_path / "j", steps=1)
    assert search(tmp_path / "j", steps=1).summary["steps"] == 1
    assert not list(tmp_path.glob(".*")), "the lock goes with the run"


# -- in processes of their own ----------------------------------------------------------------------

KILLED = """
import os, random, signal, sys
from timm_jackpot.cli import run_verb
from timm_jackpot.search import __main__ as verb
from timm_jackpot.search.life import Life
from timm_jackpot.training import checkpoint

step, instant = int(sys.argv.pop(1)), sys.argv.pop(1)
after_step, save_file = Life.after_step, checkpoint.save_file

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def after(self, done, steps, state):
    if done == step and instant == "before":
        die()
    if done >= step and instant == "while saving":
        checkpoint.save_file = lambda tensors, path: (path.write_bytes(b"half"), die())
    after_step(self, done, steps, state)
    if done == step and instant == "after":
        die()

Life.after_step = after
run_verb(verb.main)
"""


def run(folder: Path, *words: str, kill: tuple[int, str] = (-1, "never")) -> subprocess.CompletedProcess[str]:
    settings = [part for key, value in SETTINGS.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    command = [sys.executable, "-c", KILLED, str(kill[0]), kill[1], *settings, "--output", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def killed_and_resumed(folder: Path, kills: list[tuple[int, str]]) -> str:
    for kill in kills:
        died = run(folder, "--checkpoint-steps", "3", "--resume", "auto", kill=kill)
        assert died.returncode == -signal.SIGKILL, died.stderr
    ended = run(folder, "--checkpoint-steps", "3", "--resume", "auto")
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "no stray files"
    return json.loads(ended.stdout.splitlines()[-1])["mask_hash"]


def test_a_killed_run_goes_on_to_the_same_mask(tmp_path: Path, whole: SearchResult) -> None:
    assert killed_and_resumed(tmp_path / "j", [(8, "while saving")]) == whole.summary["mask_hash"]
    assert read_artefact(tmp_path / "j").masks == whole.jackpot.masks


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(2))
def test_a_run_killed_ten_times_goes_on_to_the_same_mask(round_: int, tmp_path: Path, whole: SearchResult) -> None:
    draw = random.Random(round_)
    steps = sorted(draw.sample(range(3, STEPS), 10))
    kills = [(step, draw.choice(["before", "while saving", "after"])) for step in steps]
    assert killed_and_resumed(tmp_path / "j", kills) == whole.summary["mask_hash"]


def test_a_signal_ends_the_verb_with_one_line(tmp_path: Path) -> None:
    code = KILLED.replace("signal.SIGKILL", "signal.SIGINT")
    settings = [part for key, value in SETTINGS.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    command = [sys.executable, "-c", code, "5", "before", *settings, "--output", str(tmp_path / "j")]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert stopped.returncode == 128 + signal.SIGINT
    assert stopped.stdout == ""
    assert stopped.stderr.splitlines()[-1].startswith("stopped: by SIGINT after step 5 of 20; go on with --resume auto")
    assert "Traceback" not in stopped.stderr
