"""Runs that are stopped after their last step, or while they are written: nothing is lost, nothing is hidden."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from timm_jackpot.artifact import read_artifact, save
from timm_jackpot.cli import parse
from timm_jackpot.errors import ArtifactError, ConfigError, DataError, JackpotError, RunInterrupted
from timm_jackpot.runtime.lock import locked
from timm_jackpot.search import SearchConfig, SearchResult, search_jackpot
from timm_jackpot.search import run as search_run
from timm_jackpot.search.finished import finished_summary

pytestmark = pytest.mark.usefixtures("few_digits")

STEPS = 4


def search(folder: Path, **settings: object) -> SearchResult:
    return search_jackpot(SearchConfig(steps=STEPS, output=str(folder), **settings))  # pyright: ignore


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search(tmp_path_factory.mktemp("whole") / "j")


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# -- after the last step ----------------------------------------------------------------------------


def interrupt(number: int) -> Callable[..., object]:
    def evaluate(*_: object, **__: object) -> object:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not obeyed at once")

    return evaluate


def fail(error: Exception) -> Callable[..., object]:
    def evaluate(*_: object, **__: object) -> object:
        raise error

    return evaluate


@pytest.mark.parametrize(
    ("evaluate", "raised"),
    [
        (interrupt(signal.SIGTERM), RunInterrupted),
        (interrupt(signal.SIGINT), RunInterrupted),
        (fail(DataError("image 3.png cannot be read")), DataError),
        (fail(OSError(28, "No space left on device")), OSError),
    ],
    ids=["SIGTERM", "SIGINT", "a bad image", "a full disk"],
)
def test_no_step_is_lost_by_what_happens_in_the_last_evaluation(
    evaluate: Callable[..., object],
    raised: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: SearchResult,
) -> None:
    monkeypatch.setattr(search_run, "measure_on_test", evaluate)
    with pytest.raises(raised) as stopped:
        search(tmp_path / "j")
    said = capsys.readouterr().err
    assert "continue with --resume auto" in str(stopped.value) or "no steps are lost: --resume auto" in said
    assert states(tmp_path / "j") == [f"step-{STEPS:08d}"]
    monkeypatch.undo()
    monkeypatch.setattr("timm_jackpot.methods.train.fit", fail(AssertionError("a step was done again")))
    resumed = search(tmp_path / "j", resume="auto")
    assert resumed.summary["mask_hash"] == whole.summary["mask_hash"]
    assert resumed.summary["jackpot_top1"] == whole.summary["jackpot_top1"]
    assert not (tmp_path / "j" / "checkpoints").exists()


def test_nor_by_a_signal_while_the_artifact_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = save._swap

    def interrupted(new: Path, folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        swap(new, folder)

    monkeypatch.setattr(save, "_swap", interrupted)
    with pytest.raises(RunInterrupted, match="by SIGTERM after the last step"):
        search(tmp_path / "j")
    assert [path.name for path in tmp_path.iterdir()] == ["j"]
    monkeypatch.undo()
    assert search(tmp_path / "j", resume="auto").summary["steps"] == STEPS


def test_a_disk_with_no_room_for_the_last_state_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: SearchResult
) -> None:
    """The artifact is a fraction of its size."""
    monkeypatch.setattr("timm_jackpot.training.checkpoint.save_file", fail(OSError(28, "No space left on device")))
    result = search(tmp_path / "j")
    assert result.summary["mask_hash"] == whole.summary["mask_hash"]
    assert "warning: could not write a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "j" / "checkpoints").exists()


def test_nothing_is_said_to_be_kept_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("timm_jackpot.training.checkpoint.save_file", fail(OSError(28, "No space left on device")))
    monkeypatch.setattr(search_run, "measure_on_test", fail(DataError("image 3.png cannot be read")))
    with pytest.raises(DataError):
        search(tmp_path / "j")
    assert "no steps are lost" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_signal_right_after_the_last_line_of_progress_loses_no_step(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "timm_jackpot.search", "--steps", "20", "--output", str(tmp_path / "j")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "step 20/20" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        last = process.stderr.read().splitlines()[-1]
        assert process.wait(timeout=60) == 143
    assert last.startswith("stopped: by SIGTERM after ")
    assert last.endswith(f"; continue with --resume auto --output {tmp_path / 'j'}")
    assert states(tmp_path / "j") == ["step-00000020"]


def test_a_random_base_beside_a_run_that_goes_on_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_run, "save_run", fail(ConfigError("full")))
    with pytest.raises(ConfigError, match="full"):
        search(tmp_path / "j", pretrained=False)
    monkeypatch.undo()
    assert (tmp_path / "j-base.safetensors").exists()
    assert search(tmp_path / "j", pretrained=False, resume="auto").summary["steps"] == STEPS


# -- killed between the two renames -----------------------------------------------------------------


def killed_between_renames(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """What a SIGKILL leaves: no cleaning up, no restoring."""
    rename, calls = Path.rename, []

    def rename_once(self: Path, target: Path) -> Path:
        if self.parent.suffix == ".new" and target == folder:  # the new content
            calls.append(self)
            raise KeyboardInterrupt
        return rename(self, target)

    def keep(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(Path, "rename", rename_once)
    monkeypatch.setattr(Path, "rmdir", keep)
    monkeypatch.setattr(save.shutil, "rmtree", keep)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: (bool(calls) and self == folder) or exists(self))
    with pytest.raises(KeyboardInterrupt):
        search(folder, **settings)
    monkeypatch.undo()
    assert calls
    assert not folder.exists()


@pytest.mark.slow
def test_an_artifact_hidden_by_a_kill_is_back_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: SearchResult
) -> None:
    search(tmp_path / "j", seed=1)
    before = read_artifact(tmp_path / "j").config.mask_hash
    bystander = tmp_path / ".j.longer.12345678.old"
    bystander.mkdir()
    killed_between_renames(tmp_path / "j", monkeypatch, overwrite=True)
    hidden = sorted(path.name[-4:] for path in tmp_path.iterdir())
    assert hidden == [".new", ".old", ".old"]
    with pytest.raises(JackpotError, match=r"already holds a jackpot|holds an unfinished run"):
        search(tmp_path / "j")
    assert read_artifact(tmp_path / "j").config.mask_hash == before
    resumed = search(tmp_path / "j", resume="auto")
    assert resumed.summary["mask_hash"] == whole.summary["mask_hash"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [bystander.name, "j"]


def test_so_are_the_states_of_a_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: SearchResult) -> None:
    killed_between_renames(tmp_path / "j", monkeypatch)
    monkeypatch.setattr("timm_jackpot.methods.train.fit", fail(AssertionError("a step was done again")))
    assert search(tmp_path / "j", resume="auto").summary["mask_hash"] == whole.summary["mask_hash"]
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


@pytest.mark.slow
def test_what_a_kill_left_of_a_card_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    for again in ({"overwrite": True}, {"resume": "auto", "overwrite": True}):
        search(folder)
        (folder / "README.md").rename(folder / ".README.md.part")
        search(folder, **again)
        assert not (folder / ".README.md.part").exists()
        assert (folder / "README.md").exists()
        shutil.rmtree(folder)


# -- finished runs ----------------------------------------------------------------------------------


def test_a_finished_run_is_said_to_be_finished_and_its_card_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = search(tmp_path / "j")
    card = (tmp_path / "j" / "README.md").read_bytes()
    (tmp_path / "j" / "README.md").unlink()
    words = ["--steps", str(STEPS), "--output", str(tmp_path / "j"), "--resume", "auto"]
    capsys.readouterr()
    summary = finished_summary(parse(SearchConfig, argv=words))
    assert summary == result.summary
    assert capsys.readouterr().err == f"note: this run has already finished, its artifact is in {tmp_path / 'j'}\n"
    assert (tmp_path / "j" / "README.md").read_bytes() == card
    monkeypatch.setattr("timm_jackpot.methods.train.fit", fail(AssertionError("a step was done again")))
    assert finished_summary(parse(SearchConfig, argv=[*words, "--seed", "1"])) is None
    with pytest.raises(ArtifactError, match="already holds a jackpot"):
        search(tmp_path / "j", resume="auto", seed=1)
    assert finished_summary(parse(SearchConfig, argv=["--output", str(tmp_path / "k"), "--resume", "auto"])) is None
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


@pytest.mark.slow
def test_the_verb_ends_well_on_a_finished_run(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "timm_jackpot.search", "--steps", "1", "--output", str(tmp_path / "j")]
    done = [
        subprocess.run([*words, "--resume", "auto"], capture_output=True, text=True, check=True, timeout=120).stdout
        for _ in range(2)
    ]
    first, second = (json.loads(out.splitlines()[-1]) for out in done)
    assert first == second


# -- the lock ---------------------------------------------------------------------------------------

HOLDER = """
import os, sys, time
from pathlib import Path
from timm_jackpot.runtime.lock import locked
with locked(Path(sys.argv[1])):
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    print(worker, flush=True)
    time.sleep(60)
"""


def test_the_workers_of_a_killed_run_hold_its_folder_no_longer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "j")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        try:
            with pytest.raises(ConfigError, match=rf"another run \(process {holder.pid}\)"), locked(tmp_path / "j"):
                pass
            holder.kill()
            holder.wait()
            os.kill(worker, 0)  # it is there still
            with locked(tmp_path / "j"):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_search_needs_no_module_that_windows_lacks(tmp_path: Path) -> None:
    code = (
        "import sys, filelock\n"  # which itself knows what to do without it
        "sys.modules['fcntl'] = None\n"
        "import timm_jackpot.search\n"
        "from pathlib import Path\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    sources = Path(save.__file__).parents[1].rglob("*.py")
    assert not [path for path in sources if "import fcntl" in path.read_text(encoding="utf-8")]
