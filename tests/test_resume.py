"""Runs that are stopped and go on: nothing lost, nothing different."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn

from timm_jackpot.artifact import read_artifact
from timm_jackpot.errors import ArtifactError, ConfigError, RunInterrupted, TrainingError
from timm_jackpot.runtime.lock import locked
from timm_jackpot.search import SearchConfig, SearchResult, search_jackpot
from timm_jackpot.training import Checkpoints, RunState, RunTensors, State, checkpoint, read_record
from timm_jackpot.training.finetune import FinetuneConfig, finetune_jackpot
from timm_jackpot.training.pretrain import PretrainConfig, pretrain_base

pytestmark = pytest.mark.usefixtures("few_digits")

STEPS = 20
SETTINGS = {"steps": STEPS, "batch_size": 32, "recalibrate_batches": 2}  # two epochs and a bit


def search(folder: Path, **settings: object) -> SearchResult:
    return search_jackpot(SearchConfig(**{**SETTINGS, "output": str(folder), **settings}))  # pyright: ignore


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, *, resumed: bool = False) -> None:
    """Let the process get a SIGTERM in the given step of a run's first life, or of a later one."""
    after_step = RunState.after_step

    def with_signal(self: RunState, done: int, steps: int, state: object) -> None:
        if done == step and (self.resumed is not None) == resumed:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, done, steps, state)  # pyright: ignore

    monkeypatch.setattr(RunState, "after_step", with_signal)


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
        # With thresholds older than the scores, and their counts reported after the stop.
        pytest.param(8, {"refresh_interval": 7}, marks=pytest.mark.slow),
        (9, {"opt": "adam", "train_norm": True, "mixup": 0.3, "grad_accum_steps": 2, "batch_size": 64}),
    ],
    ids=["default", "old thresholds", "everything moves"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    step: int, settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = search(tmp_path / "whole", **settings)
    stop_after(monkeypatch, step)
    sentence = rf"by SIGTERM after step {step} of {STEPS}; continue with --resume auto --output .*/part"
    with pytest.raises(RunInterrupted, match=sentence) as stopped:
        search(tmp_path / "part", **settings)
    assert stopped.value.signal == signal.SIGTERM
    assert not (tmp_path / "part" / "config.json").exists()
    torch.manual_seed(99)  # whatever the next process draws before
    way = "auto" if step == 7 else str(tmp_path / "part" / "checkpoints" / f"step-{step:08d}")
    resumed = search(tmp_path / "part", resume=way, **settings)
    assert same(uninterrupted, resumed)
    assert not (tmp_path / "part" / "checkpoints").exists(), "the artifact takes their place"

    records = [read_record(tmp_path / name / "record.jsonl") for name in ("whole", "part")]
    assert list(records[0].of("step")) == list(records[1].of("step"))
    assert [event["step"] for event in records[1].of("resume")] == [step]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_checkpoints_come_every_so_many_steps_and_the_last_two_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: SearchResult
) -> None:
    stop_after(monkeypatch, 17)
    with pytest.raises(RunInterrupted):
        search(tmp_path / "j", checkpoint_steps=5)
    kept = sorted(path.name for path in (tmp_path / "j" / "checkpoints").iterdir())
    assert kept == ["step-00000015", "step-00000017"]
    newest = tmp_path / "j" / "checkpoints" / kept[1]
    (newest / "rank0.safetensors").write_bytes((newest / "rank0.safetensors").read_bytes()[:-1])
    with pytest.raises(
        ConfigError, match=r"step-00000017 holds no complete checkpoint \(rank0\.safetensors is damaged"
    ):
        search(tmp_path / "j", resume=str(newest), checkpoint_steps=5)
    capsys.readouterr()
    assert same(whole, search(tmp_path / "j", resume="auto", checkpoint_steps=5))
    said = capsys.readouterr().err
    assert "warning: " in said
    assert "step-00000017 holds no complete checkpoint" in said
    assert "resuming after step 15" in said


def content(folder: Path) -> dict[str, bytes]:
    names = ("config.json", "masks.safetensors", "extras.safetensors", "record.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_a_stopped_run_that_may_overwrite_goes_on_without_saying_so_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "jk":
        search(tmp_path / name, steps=1)
    before = {name: content(tmp_path / name) for name in "jk"}
    stop_after(monkeypatch, 2)
    with pytest.raises(RunInterrupted, match="continue with --resume auto"):
        search(tmp_path / "j", overwrite=True, steps=6)
    with pytest.raises(ArtifactError, match="already holds a jackpot: choose another folder, or set overwrite"):
        search(tmp_path / "j", steps=6)
    # Its permission is for the artifact that was there, whatever way its state comes to another one.
    shutil.copytree(tmp_path / "j" / "checkpoints", tmp_path / "k" / "checkpoints")
    for way in ("auto", str(tmp_path / "j" / "checkpoints" / "step-00000002")):
        with pytest.raises(ArtifactError, match="k already holds a jackpot: choose another folder, or set overwrite"):
            search(tmp_path / "k", resume=way, steps=6)
    shutil.rmtree(tmp_path / "k" / "checkpoints")
    with pytest.raises(ArtifactError, match="k already holds a jackpot"):  # with nothing to go on with
        search(tmp_path / "k", resume="auto", steps=6)
    assert before == {name: content(tmp_path / name) for name in "jk"}
    monkeypatch.undo()
    stop_after(monkeypatch, 4, resumed=True)
    with pytest.raises(RunInterrupted):
        search(tmp_path / "j", resume="auto", steps=6)
    monkeypatch.undo()
    assert search(tmp_path / "j", resume="auto", steps=6).summary["steps"] == 6
    assert content(tmp_path / "j") != before["j"]
    assert content(tmp_path / "k") == before["k"]


# -- damaged states ---------------------------------------------------------------------------------


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "a truncated file": lambda folder: os.truncate(folder / "rank0.safetensors", 100),
    "a flipped bit among the tensors": lambda folder: flip(folder / "rank0.safetensors", -1),
    "no file of this rank": lambda folder: (folder / "rank0.safetensors").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "half a state": lambda folder: os.truncate(folder / "state.json", 20),
    "a flipped bit in the state": lambda folder: flip(folder / "state.json", 9),
    "no digests": lambda folder: (folder / "SHA256SUMS").unlink(),
    "empty digests": lambda folder: (folder / "SHA256SUMS").write_text(""),
    "no text": lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_passed_over(
    damage: Callable[[Path], None], accelerator: Accelerator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, accelerator)
    assert checkpoints.load_newest() is None
    paths = [checkpoints.save(State(step, {"a": torch.full((9,), step)}, {"settings": {}})) for step in (10, 20)]
    newest = checkpoints.load_newest()
    assert newest is not None
    assert (newest.step, newest.tensors["a"].tolist()) == (20, [20] * 9)
    damage(paths[1])
    with pytest.raises(ConfigError, match=r"step-00000020 holds no complete checkpoint \("):
        checkpoints.load(paths[1])
    assert capsys.readouterr().err == ""
    older = checkpoints.load_newest()
    assert older is not None
    assert (older.step, older.tensors["a"].tolist()) == (10, [10] * 9)
    assert capsys.readouterr().err.startswith(f"warning: {paths[1]} holds no complete checkpoint (")
    damage(paths[0])
    with pytest.raises(ConfigError, match=r"step-00000010 holds no .*, and there is no other: discard the unfinished"):
        checkpoints.load_newest()


def test_digests_are_those_that_coreutils_check(accelerator: Accelerator, tmp_path: Path) -> None:
    path = Checkpoints(tmp_path, accelerator).save(State(1, {"a": torch.ones(3)}, {}))
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=path, capture_output=True, text=True, check=True)
    assert checked.stdout.split() == ["rank0.safetensors:", "OK", "state.json:", "OK"]


def test_a_state_of_another_search_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, lost = RunTensors.current, "threshold.conv1.0.weight"
    monkeypatch.setattr(RunTensors, "current", lambda self: {n: t for n, t in tensors(self).items() if n != lost})
    stop_after(monkeypatch, 1)
    with pytest.raises(RunInterrupted):
        search(tmp_path / "j", steps=2)
    with pytest.raises(ConfigError, match=f"the checkpoint lacks {lost}: it comes from another run or"):
        search(tmp_path / "j", steps=2, resume="auto")


def test_a_state_holds_the_buffers_of_the_moment(accelerator: Accelerator) -> None:
    """On several CPU processes Accelerate moves a model from cpu to cpu:0, which replaces its buffers."""
    model = nn.BatchNorm1d(2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    tensors = RunTensors(lambda: {"trained.0": model.weight}, model, optimizer, accelerator)
    model._buffers["running_mean"] = torch.full((2,), 7.0)
    assert tensors.current()["buffer.running_mean"].tolist() == [7.0, 7.0]
    tensors.restore({**tensors.current(), "buffer.running_mean": torch.zeros(2)})
    assert model.running_mean is not None
    assert model.running_mean.tolist() == [0.0, 0.0]


def test_an_unfinished_run_is_neither_lost_nor_mistaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 4)
    with pytest.raises(RunInterrupted):
        search(tmp_path / "j")
    with pytest.raises(ConfigError, match="holds an unfinished run: continue with --resume auto, or discard it with"):
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


@pytest.mark.slow
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
    with pytest.raises(
        TrainingError, match=r"No space left on device.*free some space, then continue with --resume auto"
    ):
        search(tmp_path / "j", checkpoint_steps=6)
    assert [path.name for path in (tmp_path / "j" / "checkpoints").iterdir()] == ["step-00000006"]
    monkeypatch.undo()
    assert same(whole, search(tmp_path / "j", resume="auto"))


def test_a_full_disk_at_the_end_leaves_no_half_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("timm_jackpot.artifact.save.write_synced", full)
    with pytest.raises(ArtifactError, match="could not be written: No space left on device"):
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


def test_a_lock_that_a_killed_run_left_locks_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".j.lock"
    code = f"import fcntl; f = open({str(path)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConfigError, match="another run"), locked(tmp_path / "j"):
            pass
        holder.kill()
        holder.wait()
        assert path.exists()
        with locked(tmp_path / "j"):
            assert path.read_text() == f"{os.getpid()}\n"
    assert not list(tmp_path.iterdir())


def test_of_runs_that_start_at_one_instant_one_wins(tmp_path: Path) -> None:
    """Sixteen of them, again and again: never two at a time, and each either holds the folder or is refused."""
    start, inside, most, held, refused = threading.Barrier(16), [], [], [], []

    def run_often() -> None:
        start.wait()
        for _ in range(200):
            try:
                with locked(tmp_path / "j"):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0)
                    inside.pop()
                    held.append(1)
            except ConfigError:
                refused.append(1)

    threads = [threading.Thread(target=run_often) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert held
    assert refused
    assert len(held) + len(refused) == 16 * 200
    assert not list(tmp_path.iterdir())


# -- in processes of their own ----------------------------------------------------------------------

# One life for each word "step:instant" of the first argument, each a process of its own that gets a signal then. What
# a process does before it knows what it is for (imports, most of the time here) is done once, and then forked.
LIVES = """
import os, signal, sys
import matplotlib.pyplot
from timm_jackpot.cli import run_verb
from timm_jackpot.search import __main__ as verb
from timm_jackpot.training import RunState
from timm_jackpot.training import checkpoint

lives, number = sys.argv.pop(1).split(), getattr(signal, sys.argv.pop(1))
after_step = RunState.after_step

def die(*_):
    os.kill(os.getpid(), number)

def after(self, done, steps, state):
    if done == step and instant == "before":
        die()
    if done >= step and instant == "saving":
        checkpoint.save_file = lambda tensors, path: (path.write_bytes(b"half"), die())
    after_step(self, done, steps, state)  # pyright: ignore
    if done == step and instant == "after":
        die()

RunState.after_step = after
for life in lives:
    step, instant = int(life.split(":")[0]), life.split(":")[1]
    child = os.fork()
    if child == 0:
        run_verb(verb.main)
        sys.exit()
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=sys.stderr, flush=True)
"""
TO_THE_END = "0:never"
EVERY = 3  # steps between two checkpoints


def live(folder: Path, lives: list[str], number: str, **settings: object) -> tuple[list[int], str, list[str]]:
    """How each life ended, and what all of them said on stdout and stderr."""
    flags = {**SETTINGS, "output": folder, **settings}
    words = [part for key, value in flags.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    command = [sys.executable, "-c", LIVES, " ".join(lives), number, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    lines = done.stderr.splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("ended ")], done.stdout, lines


def killed_and_resumed(folder: Path, kills: list[str], **settings: object) -> str:
    ended, out, err = live(folder, [*kills, TO_THE_END], "SIGKILL", checkpoint_steps=EVERY, resume="auto", **settings)
    assert ended == [-signal.SIGKILL] * len(kills) + [0], err
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "no stray files"
    assert not (folder / "checkpoints").exists()
    return json.loads(out.splitlines()[-1])["mask_hash"]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings that search among fifty images: five steps are an epoch, and a life is short."""
    folder, draw = tmp_path_factory.mktemp("few"), np.random.default_rng(0)
    for number in range(60):
        path = folder / ("train" if number < 50 else "test") / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return {"dataset": "folder", "data_dir": folder, "batch_size": 9, "val_fraction": 0.0}


@pytest.fixture(scope="module")
def whole_of_few(tmp_path_factory: pytest.TempPathFactory, few: dict[str, object]) -> SearchResult:
    return search(tmp_path_factory.mktemp("whole of few") / "j", **{**few, "data_dir": str(few["data_dir"])})


def test_a_killed_run_goes_on_to_the_same_mask(
    tmp_path: Path, few: dict[str, object], whole_of_few: SearchResult
) -> None:
    assert killed_and_resumed(tmp_path / "j", ["8:saving"], **few) == whole_of_few.summary["mask_hash"]
    assert read_artifact(tmp_path / "j").masks == whole_of_few.jackpot.masks


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_ten_times_goes_on_to_the_same_mask(
    seed: int, tmp_path: Path, few: dict[str, object], whole_of_few: SearchResult
) -> None:
    draw = random.Random(seed)
    last = STEPS // EVERY * EVERY  # after the last checkpoint there is none to be killed in
    kills = [
        f"{step}:{draw.choice(['before', 'after', 'saving'][: 3 if step <= last else 2])}"
        for step in sorted(draw.sample(range(1, STEPS), 10))
    ]
    killed_and_resumed(tmp_path / "j", kills, **few)
    masks = read_artifact(tmp_path / "j").masks
    differing = sum(int((mask ^ whole_of_few.jackpot.masks[name]).sum()) for name, mask in masks.items())
    assert differing == 0, f"Hamming distance {differing} of {masks.total} after {kills}"
    print(f"seed {seed}: {len(kills)} kills, Hamming distance {differing} of {masks.total}")


def test_a_signal_ends_the_verb_with_one_line(tmp_path: Path) -> None:
    ended, out, err = live(tmp_path / "j", ["5:before"], "SIGINT")
    assert ended == [128 + signal.SIGINT]
    assert out == ""
    assert err[-2].startswith("stopped: by SIGINT after step 5 of 20; continue with --resume auto")
    assert not any("Traceback" in line for line in err)


# -- pretrain and finetune --------------------------------------------------------------------------


def test_a_stopped_pretrain_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretrain(name: str, **settings: object) -> dict[str, object]:
        flags = {"model": "digits_resnet", "steps": 30, "batch_size": 64, "opt": "adam", "lr": 0.001, "mixup": 0.2}
        flags |= {"lr_schedule": "step", "save_steps": (0, 10), "output": str(tmp_path / name), **settings}
        return pretrain_base(PretrainConfig(**flags))  # pyright: ignore

    whole = pretrain("whole")
    said = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(
        r"pretrain: digits_resnet, on cpu \(.*\); digits, [\d,]+ training and \d+ test images; 30 steps of 64 images; "
        rf"into {tmp_path}/whole",
        said,
    )
    stop_after(monkeypatch, 25)  # within an epoch, after the first milestone
    with pytest.raises(RunInterrupted, match=r"by SIGTERM after step 25 of 30; continue with --resume auto --output"):
        pretrain("part")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"made with other settings \(lr_decay 0\.1, not 0\.5\)"):
        pretrain("part", resume="auto", lr_decay=0.5)
    resumed = pretrain("part", resume="auto")
    assert weights_of(tmp_path / "part") == weights_of(tmp_path / "whole")
    early = [
        (tmp_path / name / f"step_{step}.safetensors").read_bytes() for step in (0, 10) for name in ("part", "whole")
    ]
    assert early[0] == early[1] != early[2] == early[3]
    assert {**resumed, "seconds": 0, "checkpoint": ""} == {**whole, "seconds": 0, "checkpoint": ""}
    rates = [event["lr"] for event in read_record(tmp_path / "part" / "record.jsonl").of("step")]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert pretrain("part", resume="auto") == resumed, "a finished run has nothing left to do"
    assert pretrain("part", overwrite=True, steps=1, save_steps=())["steps"] == 1
    assert not (tmp_path / "part" / "step_0.safetensors").exists()
    with pytest.raises(ConfigError, match="--save-steps 30 is not a step of this run: name steps from 0 to 29"):
        pretrain("late", save_steps=(0, 30))
    assert not (tmp_path / "late" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_killed_finetune_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path / "j", steps=1)

    def finetune(name: str, **settings: object) -> dict[str, object]:
        flags = {"artifact": str(tmp_path / "j"), "steps": 6, "output": str(tmp_path / name), **settings}
        return finetune_jackpot(FinetuneConfig(**flags))  # pyright: ignore

    finetune("whole")
    after_step = RunState.after_step

    def killed(self: RunState, done: int, *others: object) -> None:
        if done == 5:
            raise KeyboardInterrupt
        after_step(self, done, *others)  # pyright: ignore

    monkeypatch.setattr(RunState, "after_step", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune("part", checkpoint_steps=2)
    monkeypatch.undo()
    finetune("part", resume="auto")
    assert "resuming after step 4" in capsys.readouterr().err
    assert weights_of(tmp_path / "part") == weights_of(tmp_path / "whole")


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
