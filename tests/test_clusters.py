"""Two nodes, each with an agent and two processes, on one machine; and one experiment split over processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from timm_jackpot.experiments.rivals import RivalsConfig, compare_rivals

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
STEPS, EVERY = 12, 3


@contextmanager
def nodes(folders: Sequence[Path], *words: str) -> Iterator[list[subprocess.Popen[str]]]:
    """`torchrun` on every node, in its own process group and working folder; they meet on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(folders)), "--nproc-per-node", "2"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"),
        *("-m", "timm_jackpot.search", "--batch-size", "16", "--steps", str(STEPS), "--checkpoint-steps", str(EVERY)),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    agents = [
        subprocess.Popen(
            [*launcher, *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for folder in folders
    ]
    try:
        yield agents
    finally:
        for agent in agents:
            kill(agent)
            agent.communicate()


def kill(agent: subprocess.Popen[str]) -> None:
    """As a node that loses power: the agent and its processes, at once."""
    for child in (
        Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split() if agent.poll() is None else ()
    ):
        os.kill(int(child), signal.SIGKILL)
    if agent.poll() is None:
        agent.kill()


def finished(folders: Sequence[Path], *words: str) -> list[tuple[str, str]]:
    with nodes(folders, *words) as agents:
        said = [agent.communicate(timeout=280) for agent in agents]
        assert [agent.returncode for agent in agents] == [0, 0], said
    return said


def mask_of(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["mask_hash"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_on_two_nodes_ends_in_one_mask_even_if_a_node_is_lost(tmp_path: Path) -> None:
    here = [tmp_path, tmp_path]
    said = finished(here, "--output", "whole")
    summaries = [json.loads(line) for out, _ in said for line in out.splitlines() if line.startswith("{")]
    assert [summary["processes"] for summary in summaries] == [4]
    with nodes(here, "--output", "broken") as agents:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "broken" / "checkpoints").glob("step-*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill(agents[1])
        errors = agents[0].communicate(timeout=120)[1]
        assert agents[0].returncode != 0
        assert "another process of this run was lost" in errors
    assert not (tmp_path / "broken" / "config.json").exists()
    finished(here, "--output", "broken", "--resume", "auto")
    assert mask_of(tmp_path / "broken") == mask_of(tmp_path / "whole")


def test_nodes_that_do_not_share_the_folder_are_told_before_the_first_step(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with nodes(folders, "--output", "mine") as agents:
        errors = [agent.communicate(timeout=200)[1] for agent in agents]
    for error in errors:
        assert "does not see the folder mine that rank 0 writes to: give --output a path on a file system" in error
        assert "step 1/" not in error


def test_a_sweep_in_parts_is_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('steps: 2\nbatch_size: 32\ngrid: {sparsity: ["0.5", "0.9"]}\nseeds: [0, 1]\n')

    def start(output: str, *part: str) -> subprocess.Popen[str]:
        words = ["-m", "timm_jackpot.sweep", "--recipe", "r.yaml", "--output", output, *part]
        return subprocess.Popen(
            [sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    parts = [start("parts", "--part", f"{number}/2") for number in (1, 2)]
    said = [part.communicate(timeout=280) for part in parts]
    assert [part.returncode for part in parts] == [0, 0], said
    assert [error.count("sweep: run") for _, error in said] == [2, 2], "no double work"
    again, whole = start("parts"), start("whole")
    assert json.loads(again.communicate(timeout=280)[0].splitlines()[-1])["skipped"] == 4
    whole.communicate(timeout=280)

    def rows(folder: str) -> list[dict[str, str]]:
        found = list(csv.DictReader((tmp_path / folder / "table.csv").read_text().splitlines()))
        return [{key: value for key, value in row.items() if key != "seconds"} for row in found]

    assert rows("parts") == rows("whole")
    assert len(rows("whole")) == 4


def test_rivals_in_parts_have_one_table(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "dataset: digits\nbatch_size: 64\nval_fraction: 0.5\nsteps: 2\nseeds: [0]\n"
        "tasks: {a: {train_head: true, distill_weight: 0}}\n"
        "rivals: {probe: {method: probe, tune: {lr: [1.0e-3, 0.5]}}, half: {sparsity: 0.5}, "
        "lora: {method: lora, rank: 2}}\n"
    )

    def rows(output: str, part: str | None = None) -> list[tuple[object, ...]]:
        found = compare_rivals(RivalsConfig(rivals=str(recipe), output=str(tmp_path / output), part=part)).rows
        return [(row["rival"], row["seed"], row["top1"]) for row in found]

    assert [row[0] for row in rows("parts", "1/2")] == ["probe", "lora"]
    assert not (tmp_path / "parts" / "table.md").exists()
    together = rows("parts", "2/2")
    assert [row[0] for row in together] == ["probe", "half", "lora"]
    assert together == rows("parts") == rows("whole")
