"""Whole runs on a GPU; `test_sharding.py` and `test_processes.py` have the same for several CPU processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from timm_jackpot import from_pretrained
from timm_jackpot.artifact import read_artifact
from timm_jackpot.masks import mask_overlap
from timm_jackpot.training import read_record

pytestmark = pytest.mark.gpu
SEARCH = [sys.executable, "-m", "timm_jackpot.search", "--steps", "20", "--batch-size", "64"]


def search(output: Path, *words: str, precision: str = "no", launcher: list[str] | None = None, **env: str) -> None:
    command = [*(launcher or SEARCH[:1]), *SEARCH[1:], "--output", str(output), *words]
    env = {**os.environ, "ACCELERATE_MIXED_PRECISION": precision, **env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def mask_hash(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["mask_hash"]


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_the_same_seed_gives_the_same_mask_and_a_cpu_opens_it(precision: str, tmp_path: Path) -> None:
    for name in "ab":
        search(tmp_path / name, precision=precision)
    assert mask_hash(tmp_path / "a") == mask_hash(tmp_path / "b")
    start = next(read_record(tmp_path / "a" / "record.jsonl").of("start"))
    assert torch.cuda.get_device_name() in start["device"]
    assert "cuDNN kernels are deterministic" in start["deterministic"]
    assert from_pretrained(tmp_path / "a")(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_a_run_that_was_stopped_finds_the_same_mask(tmp_path: Path) -> None:
    search(tmp_path / "whole", precision="bf16")
    stop = (
        "import os, signal; from timm_jackpot.cli import run_verb; from timm_jackpot.search import __main__ as verb;"
        "from timm_jackpot.training import RunState; after = RunState.after_step\n"
        "def step(self, done, *rest):\n"
        "    if done == 9: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    after(self, done, *rest)\n"
        "RunState.after_step = step; run_verb(verb.main)"
    )
    command = [sys.executable, "-c", stop, *SEARCH[3:], "--output", str(tmp_path / "broken")]
    env = {**os.environ, "ACCELERATE_MIXED_PRECISION": "bf16"}
    stopped = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert "continue with --resume auto" in stopped.stderr
    search(tmp_path / "broken", "--resume", "auto", precision="bf16")
    assert mask_hash(tmp_path / "broken") == mask_hash(tmp_path / "whole")


def test_the_fastest_kernels_are_said_to_be_what_they_are(tmp_path: Path) -> None:
    search(tmp_path / "fast", "--no-deterministic", "--no-channels-last")
    start = next(read_record(tmp_path / "fast" / "record.jsonl").of("start"))
    assert "the same seed may give another result" in start["deterministic"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_gpus_find_the_mask_of_one(sharded: bool, tmp_path: Path) -> None:
    network = ["--model=test_vit", "--no-pretrained", "--num-classes=10", "--img-size=32", "--dataset=digits"]
    search(tmp_path / "one", *network)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    env = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if sharded else {}
    search(tmp_path / "two", *network, "--batch-size", "32", launcher=launcher, **env)
    one, two = (read_artifact(tmp_path / name).masks for name in ("one", "two"))
    assert one.kept_per_layer() == two.kept_per_layer()
    assert mask_overlap(one, two) > 0.999
