"""A night in minutes: two processes, two thousand steps, killed about every two hundred."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_processes import started

from timm_jackpot.artifact import read_artifact
from timm_jackpot.masks import MaskSet
from timm_jackpot.training import read_record

STEPS, KILL_EVERY, CHECKPOINT_EVERY = 2000, 200, 50
LOST = "error: another process of this run was lost"


def words(folder: Path) -> list[str]:
    settings = ["--steps", str(STEPS), "--batch-size", "8", "--distill-weight", "0"]
    settings += ["--checkpoint-steps", str(CHECKPOINT_EVERY), "--resume", "auto"]
    return ["-m", "timm_jackpot.search", *settings, "--output", str(folder)]


def step_of(folder: Path) -> int:
    """The last step that the record of a running search speaks of."""
    try:
        text = (folder / "record.partial.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0
    return max(map(int, re.findall(r'"kind": "step", "step": (\d+)', text)), default=0)


def resident(process: int) -> int:
    """Memory of a process that is in RAM, in KiB."""
    try:
        return int(re.findall(r"VmRSS:\s*(\d+)", Path(f"/proc/{process}/status").read_text())[0])
    except (OSError, IndexError):
        return 0


def masks_without_a_kill(folder: Path) -> tuple[MaskSet, list[int]]:
    """The masks, and the main process's memory over the last two thirds of the steps."""
    memory = []
    with started(2, words(folder)) as processes:
        while processes[0].poll() is None:
            # The last tenth of a per cent is evaluation, pictures, the artifact.
            if STEPS / 3 <= step_of(folder) < STEPS - 10:
                memory.append(resident(processes[0].pid))
            time.sleep(0.25)
        said = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
    return read_artifact(folder).masks, [kib for kib in memory if kib]


def killed_once(folder: Path, step: int, victims: list[int], delay: float) -> None:
    """Go on with the run to a step, and a bit, and kill some of its processes: none stays."""
    with started(2, words(folder)) as processes:
        while step_of(folder) < step:
            said = [process.communicate() for process in processes if process.poll() is not None]
            assert not said, said
            time.sleep(0.02)
        time.sleep(delay)
        for rank in victims:
            processes[rank].send_signal(signal.SIGKILL)
        for rank, process in enumerate(processes):
            _, err = process.communicate(timeout=120)
            assert process.returncode == (-signal.SIGKILL if rank in victims else 2), err
            assert rank in victims or LOST in err, err


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_two_thousand_steps_and_nine_kills(tmp_path: Path) -> None:
    draw, begun = random.Random(0), time.monotonic()
    whole, memory = masks_without_a_kill(tmp_path / "whole")
    middle = time.monotonic()
    assert len(memory) > 20
    spread = max(memory) / min(memory) - 1

    targets = [number * KILL_EVERY + draw.randint(-40, 40) for number in range(1, STEPS // KILL_EVERY)]
    kills = [(target, draw.choice([[0], [1], [0, 1]])) for target in targets]
    for target, victims in kills:
        killed_once(tmp_path / "j", target, victims, delay=draw.random() / 2)
        assert not (tmp_path / "j" / "config.json").exists()
        assert 1 <= len(list((tmp_path / "j" / "checkpoints").glob("step-*"))) <= 3  # while one is being written
    with started(2, words(tmp_path / "j")) as processes:
        said = [process.communicate(timeout=600) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
    masks = read_artifact(tmp_path / "j").masks

    differing = sum(int((mask ^ whole[name]).sum()) for name, mask in masks.items())
    figures = {
        "kills": kills,
        "differing": differing,
        "weights": masks.total,
        "memory_kib": [min(memory), max(memory)],
        "seconds": [round(middle - begun), round(time.monotonic() - middle)],
        "resumes": len(list(read_record(tmp_path / "j" / "record.jsonl").of("resume"))),
    }
    print(json.dumps(figures))
    assert differing == 0
    assert spread < 0.02
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j", "whole"], "no lock, nothing half-written"
    found = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("j", "whole")]
    assert found[0] == found[1]
    assert not {"checkpoints", "record.partial.jsonl"} & set(found[0])
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left
