"""What nights bring: damaged images, dying workers, full memory, lost processes. Each ends in one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from timm_jackpot.data import loader
from timm_jackpot.errors import ConfigError, DataError, TrainingError
from timm_jackpot.search import SearchConfig, SearchResult, search_jackpot
from timm_jackpot.training import Objective, read_record


def search(folder: Path, **settings: object) -> SearchResult:
    return search_jackpot(SearchConfig(**{"steps": 2, "batch_size": 32, "output": str(folder), **settings}))  # pyright: ignore


# -- images -----------------------------------------------------------------------------------------


@pytest.fixture(params=[32, 96], ids=["in memory", "by workers"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    """Twenty training and four test images, of which two and one are damaged; settings that search with them."""
    draw, size = np.random.default_rng(0), request.param
    for split, n in (("train", 10), ("test", 2)):
        for label in "ab":
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    half = (tmp_path / "images" / "train" / "a" / "3.png").read_bytes()
    (tmp_path / "images" / "train" / "a" / "3.png").write_bytes(half[: len(half) // 2])
    (tmp_path / "images" / "train" / "b" / "0.png").write_bytes(b"no picture")
    (tmp_path / "images" / "test" / "b" / "1.png").write_bytes(b"")
    weights = tmp_path / "base.safetensors"
    save_file(
        {n: t.contiguous() for n, t in timm.create_model("test_resnet", num_classes=2).state_dict().items()}, weights
    )
    return {
        "model": "test_resnet",
        "base_checkpoint": str(weights),
        "img_size": size,
        "data_dir": str(tmp_path / "images"),
        "batch_size": 6,
        "steps": 9,
        "val_fraction": 0.0,
    }


def test_images_that_cannot_be_read_are_left_out_and_counted(damaged: dict[str, object], tmp_path: Path) -> None:
    result = search(tmp_path / "j", **damaged)
    assert result.summary["unreadable_images"] == 3
    assert result.summary["test_images"] == 3


def test_or_are_an_error_that_names_the_first(damaged: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image .*[0-9]\.png cannot be read \(.*\): repair or remove it"):
        search(tmp_path / "j", strict=True, **damaged)
    assert not (tmp_path / "j" / "config.json").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_of_which_no_image_can_be_read_is_refused(
    damaged: dict[str, object], split: str, tmp_path: Path
) -> None:
    for path in (tmp_path / "images" / split).rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of the .*images .*can be read"):
        search(tmp_path / "j", **damaged)


def test_a_worker_that_dies_is_one_sentence(
    damaged: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damaged["img_size"] == 32:
        pytest.skip("images in memory have no workers")
    parent, read = os.getpid(), loader.read_image

    def deadly(dataset: object, index: int) -> tuple[object, int]:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(dataset, index)

    monkeypatch.setattr(loader, "read_image", deadly)
    with pytest.raises(DataError, match="a data worker died at step 0, perhaps out of memory: lower --workers"):
        search(tmp_path / "j", **damaged)


# -- steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory at step 1: lower --batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory at step 1"),
    ],
)
def test_full_memory_says_what_to_lower(
    error: Exception, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, calls = Objective.__call__, []

    def failing(self: Objective, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return call(self, model, images, labels)

    monkeypatch.setattr(Objective, "__call__", failing)
    with pytest.raises(TrainingError, match=sentence):
        search(tmp_path / "j", steps=3)


def test_a_bug_is_not_dressed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*_: object) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Objective, "__call__", buggy)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        search(tmp_path / "j")


# -- trackers ---------------------------------------------------------------------------------------


def test_a_tracker_follows_the_run(tmp_path: Path) -> None:
    search(tmp_path / "j", report_to="tensorboard")
    events = list((tmp_path / "j-logs").rglob("events.out.tfevents*"))
    assert events
    assert any(b"step/loss" in path.read_bytes() for path in events)
    start = next(read_record(tmp_path / "j" / "record.jsonl").of("start"))
    assert "bit for bit" in start["deterministic"]


def test_an_unknown_tracker_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="--report-to nonsense: Accelerate knows no such tracker, or it is not installed"
    ):
        search(tmp_path / "j", report_to="nonsense")


# -- several processes ------------------------------------------------------------------------------

TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]


def launch(folder: Path, *words: str, processes: int = 2) -> subprocess.Popen[str]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*TWO, str(processes), "-m", "timm_jackpot.search", "--output", str(folder), *words]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A network without batch statistics, and the flags that search in it."""
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("vit") / "base.safetensors"
    state = timm.create_model("test_vit", num_classes=10, img_size=32).state_dict()
    save_file({n: t.contiguous() for n, t in state.items()}, weights)
    words = ["--model", "test_vit", "--img-size", "32", "--dataset", "digits", "--steps", "40", "--base-checkpoint"]
    return [*words, str(weights)]


def mask_hash(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])["mask_hash"]


@pytest.mark.multiprocess
@pytest.mark.slow
def test_two_and_three_processes_find_the_mask_of_one(vit: list[str], tmp_path: Path) -> None:
    """The same images in each step, the same learning rates; only sums are taken in another order.

    An epoch of 1,293 images is 26 steps of 48 and a remainder that no process reads.
    """
    hashes = {
        n: mask_hash(launch(tmp_path / f"j{n}", *vit, "--batch-size", str(48 // n), processes=n)) for n in (1, 2, 3)
    }
    assert len(set(hashes.values())) == 1


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_stopped_pair_goes_on_to_the_same_mask(tmp_path: Path) -> None:
    words = ["--steps", "40", "--batch-size", "64", "--checkpoint-steps", "10"]
    whole = mask_hash(launch(tmp_path / "whole", *words))
    process = launch(tmp_path / "part", *words)
    checkpoints = tmp_path / "part" / "checkpoints"
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert mask_hash(launch(tmp_path / "part", *words, "--resume", "auto")) == whole


def is_running(process: int) -> bool:
    """Whether a process is there, and no zombie that nobody has asked for its end."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


SHELL = "import subprocess, sys; subprocess.run(sys.argv[1:])"


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("launched", [True, False], ids=["launcher", "shell"])
def test_a_launcher_that_has_gone_stops_the_run_and_a_shell_does_not(tmp_path: Path, launched: bool) -> None:
    parent_words = ["-m", "accelerate.commands.launch", "-m"] if launched else ["-c", SHELL, sys.executable, "-m"]
    words = [*parent_words, "timm_jackpot.search", "--steps", "5000", "--output", str(tmp_path / "j")]
    parent = subprocess.Popen([sys.executable, *words], start_new_session=True)
    record = tmp_path / "j" / "record.partial.jsonl"
    while not record.exists() or '"step"' not in record.read_text():
        time.sleep(0.1)
    child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])
    parent.kill()
    parent.communicate()
    if not launched:
        lines = len(record.read_text().splitlines())
        deadline = time.monotonic() + 60
        while len(record.read_text().splitlines()) < lines + 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(record.read_text().splitlines()) >= lines + 3
        assert is_running(child)
        os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)
    assert list((tmp_path / "j" / "checkpoints").glob("step-*"))
