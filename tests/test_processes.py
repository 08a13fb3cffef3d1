"""Several processes: exact counts, one writer, one state, and an end when one of them is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import several
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from timm_jackpot.errors import ConfigError
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.training import read_record


@contextmanager
def started(count: int, command: Sequence[str], **environment: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Ranks of one run, each a process of its own without a launcher that would end the others; none is left behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environment,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def found_by(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """What the ranks print. The last one stops answering at the end, and is killed when the others have ended."""
    ended = [process.communicate(timeout=120) for process in processes[:-1]]
    processes[-1].kill()
    ended.append(processes[-1].communicate(timeout=60))
    for process, (_, err) in zip(processes[:-1], ended, strict=False):
        assert process.returncode == 0, err
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_counts_states_and_timeouts_of_several_processes(count: int, accelerator: Accelerator, tmp_path: Path) -> None:
    with started(count, [several.__file__, str(tmp_path)]) as processes:
        found = found_by(processes)
    assert [one["processes"] for one in found] == [count] * count

    # Shares of 47, 11, 2 and 1 images are unequal, or empty: each image counts once, on every rank alike.
    alone = [list(accuracy) for accuracy in several.accuracies(accelerator)]
    assert [n for _, _, n in alone] == [47, 47, 11, 2, 1]
    assert alone[0][0] == pytest.approx(100 * 37 / 47)
    assert all(one["accuracies"] == alone for one in found)

    # 47 images are 3 or 5 steps of 4 on each rank and a remainder: as many steps everywhere, no image twice in an
    # epoch, and the step that one process with a batch as large as all would take.
    together = several.trained(accelerator, 4 * count)
    epoch = several.IMAGES // (4 * count)
    assert all(len(one["seen"]) == several.STEPS for one in found)
    steps = [sorted(number for one in found for number in one["seen"][step]) for step in range(several.STEPS)]
    assert steps == [sorted(batch) for batch in together["seen"]]
    for first in range(0, several.STEPS, epoch):
        assert max(Counter(number for step in steps[first : first + epoch] for number in step).values()) == 1
    for one in found:
        assert one["weights"] == found[0]["weights"]
        for mine, whole in zip(one["weights"], together["weights"], strict=True):
            torch.testing.assert_close(torch.tensor(mine), torch.tensor(whole), rtol=1e-5, atol=1e-7)

    # One rank's full disk or damaged file is everybody's.
    last = f"rank{count - 1}.safetensors is damaged"
    for rank, one in enumerate(found):
        assert "No space left on device" in one["full"]
        assert one["damaged"].endswith(f"step-00000002 holds no complete checkpoint ({last})")
        assert one["older"] == [[1], [1, rank]]
        assert one["written"] == (["buffer.mine"] if rank else ["all", "buffer.mine"])
        assert one["differ"] == "the mask of rank 1 differs from rank 0's: the run is not usable"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]

    for one in found[:-1]:
        assert one["lost"].startswith("another process of this run did not answer within --timeout: see its last")
        assert several.TIMEOUT - 1 < one["waited"] < several.TIMEOUT + 10


# -- what the launcher may ask for ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ],
)
def test_other_parallelism_is_refused_by_name(
    variable: str, name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    AcceleratorState._reset_state(True)
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=f"^{name} is not supported: use `accelerate launch"):
        make_accelerator(seed=0)
    monkeypatch.setenv(variable, "false")
    assert make_accelerator(seed=0).num_processes == 1


def test_fsdp_is_for_searches_and_of_version_2(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"this is none: launch without --use_fsdp$"):
        make_accelerator(seed=0)
    with pytest.raises(ConfigError, match=r"launch with --fsdp_version 2$"):
        make_accelerator(seed=0, can_shard=True)
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert make_accelerator(seed=0, can_shard=True).num_processes == 1


# -- runs -------------------------------------------------------------------------------------------

LOSE = """
import os, signal, sys
from timm_jackpot.cli import run_verb
from timm_jackpot.search import __main__ as verb
from timm_jackpot.training import RunState

number, after = getattr(signal, sys.argv.pop(1)), RunState.after_step

def step(self, done, steps, state):
    if done == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), number)
    after(self, done, steps, state)

RunState.after_step = step
run_verb(verb.main)
"""


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "timeout", "sentence"),
    [
        ("SIGKILL", 1800, "another process of this run was lost at step 3"),
        ("SIGSTOP", 20, "another process of this run did not answer within --timeout at step 3"),
    ],
)
def test_a_lost_process_ends_the_other_one_with_a_reason(
    number: str, timeout: int, sentence: str, tmp_path: Path
) -> None:
    words = ["-c", LOSE, number, "--steps", "500", "--timeout", str(timeout), "--output", str(tmp_path / "j")]
    with started(2, words) as (main, _):
        out, err = main.communicate(timeout=150)
    assert main.returncode == 2, err
    assert f"error: {sentence}: see its last messages, then continue with --resume auto" in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "j" / "config.json").exists()
    assert not list(tmp_path.glob(".*")), "the lock goes with the run"


UNFORESEEN = """
import os
from timm_jackpot.cli import run_verb
from timm_jackpot.search import __main__ as verb
from timm_jackpot.training import RunState

after = RunState.after_step

def step(self, done, steps, state):
    if done == 3 and os.environ["RANK"] == "1":
        raise ZeroDivisionError("nobody foresaw this")
    after(self, done, steps, state)

RunState.after_step = step
run_verb(verb.main)
"""


@pytest.mark.multiprocess
@pytest.mark.slow
def test_one_process_that_fails_in_an_unforeseen_way_does_not_keep_the_others(tmp_path: Path) -> None:
    with started(2, ["-c", UNFORESEEN, "--steps", "500", "--output", str(tmp_path / "j")]) as (main, other):
        err = other.communicate(timeout=150)[1]
        out, lost = main.communicate(timeout=60)
    assert (main.returncode, other.returncode) == (2, 1)
    assert err.splitlines()[-1].startswith(
        "unexpected error: ZeroDivisionError: nobody foresaw this; run again with --traceback"
    )
    assert "error: another process of this run was lost at step 3" in lost
    assert "Traceback" not in err + lost
    assert out == ""
    assert not (tmp_path / "j" / "config.json").exists()


DIFFER = """
import os
from timm_jackpot.cli import run_verb
from timm_jackpot.search import __main__ as verb
from timm_jackpot.training import RunState

after = RunState.after_step

def step(self, done, steps, state):
    if done == 12 and os.environ["RANK"] == "1":
        next(t for n, t in state().items() if n.startswith("scores.")).data.neg_()
    after(self, done, steps, state)

RunState.after_step = step
run_verb(verb.main)
"""


@pytest.mark.multiprocess
@pytest.mark.slow
def test_scores_that_differ_stop_a_run_at_the_next_figures(tmp_path: Path) -> None:
    words = ["-c", DIFFER, "--steps", "500", "--batch-size", "16", "--output", str(tmp_path / "j")]
    with started(2, words) as processes:
        ended = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [2, 2], ended
    for _, err in ended:
        assert "error: the sum of scores of rank 1 differs from rank 0's: the run is not usable" in err
    record = read_record(tmp_path / "j" / "record.partial.jsonl")
    assert [event["step"] for event in record.of("step")] == [0, 10]
    assert not (tmp_path / "j" / "config.json").exists()


@pytest.mark.multiprocess
@pytest.mark.slow
def test_one_process_writes_what_a_sweep_has_found(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('steps: 2\nbatch_size: 32\ngrid: {sparsity: ["0.5", "0.9"]}\nseeds: [0, 1]\n')
    words = ["-m", "timm_jackpot.sweep", "--recipe", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "out")]
    with started(2, words) as processes:
        ended = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ended
    assert json.loads(ended[0][0].splitlines()[-1]) == {
        "cells": 2,
        "runs": 4,
        "skipped": 0,
        "table": str(tmp_path / "out" / "table.md"),
    }
    assert ended[1][0] == ""
    assert "sweep: run" not in ended[1][1]
    assert ended[0][1].count("sweep: run") == 4
    assert len(json.loads((tmp_path / "out" / "runs.json").read_text())) == 4
    assert len((tmp_path / "out" / "table.csv").read_text().splitlines()) == 5
    assert not list((tmp_path / "out").rglob(".*"))
