"""Methods that change masks or weights while they train: runs that are stopped and go on, and runs on two processes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from test_processes import started
from torch import Tensor

from timm_jackpot.errors import RunInterrupted
from timm_jackpot.masks import MaskSet, chance_overlap, mask_overlap
from timm_jackpot.methods import Budget, Outcome, Task, method
from timm_jackpot.methods.sparse.deep_r import DeepRSettings
from timm_jackpot.methods.sparse.gradual import GradualSettings
from timm_jackpot.methods.sparse.reparameterization import DsrSettings
from timm_jackpot.methods.sparse.rigl import RigLSettings
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.search import SearchConfig
from timm_jackpot.search.task import open_task
from timm_jackpot.training import RunState, open_run

STEPS, EPOCH = 9, 3  # masks change after each epoch, and as often in the other methods
BUDGET = Budget("0.8", "erk", steps=STEPS, seed=1)
DATA: dict[str, Any] = {"dataset": "digits", "batch_size": 64, "val_fraction": 0.8, "steps": STEPS}
OFTEN: dict[str, Any] = {
    "rigl": RigLSettings(update_interval=EPOCH),
    "dsr": DsrSettings(update_interval=EPOCH, threshold=0.01),
    "gradual_magnitude": GradualSettings(prune_interval=EPOCH),
    "deep_r": DeepRSettings(temperature=1e-8),
}
RESUMED = ("set", "rigl", "sparse_momentum", "dsr", "deep_r", "gradual_magnitude", "soft_threshold", "supermask")
ON_TWO = ("rigl", "deep_r", "supermask")


@pytest.fixture(scope="module")
def task() -> Task:
    opened = open_task(SearchConfig(**DATA), None, make_accelerator(seed=0))[0]
    assert len(opened.data.train) // 64 == EPOCH
    return opened


@pytest.fixture(scope="module")
def whole() -> dict[str, Outcome]:
    """Uninterrupted runs, by method, as tests need them."""
    return {}


def run(task: Task, name: str) -> Outcome:
    return method(name).run(task, BUDGET, OFTEN.get(name))


def saved_run(task: Task, name: str, folder: Path, *, resume: str | None = None) -> Outcome:
    config = SearchConfig(**DATA, output=str(folder), resume=resume)
    with open_run(folder, task.accelerator, config, settings={"method": name}, digest=lambda _: None) as state:
        state.begin(name, task.data, config, STEPS)
        with state.recorded() as record:
            return run(replace(task, record=record, state=state), name)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    after_step = RunState.after_step

    def with_signal(self: RunState, done: int, steps: int, tensors: Any) -> None:
        if done == step and self.resumed is None:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, done, steps, tensors)

    monkeypatch.setattr(RunState, "after_step", with_signal)


@pytest.mark.parametrize("step", [EPOCH, EPOCH + 1], ids=["before an update", "after it"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_goes_on_bit_for_bit(
    task: Task, whole: dict[str, Outcome], name: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in whole:
        whole[name] = run(task, name)
    uninterrupted = whole[name]
    stop_after(monkeypatch, step)
    with pytest.raises(RunInterrupted, match=f"after step {step} of {STEPS}"):
        saved_run(task, name, tmp_path / "run")
    torch.manual_seed(99)  # whatever the next process draws before
    resumed = saved_run(task, name, tmp_path / "run", resume="auto")
    assert resumed.masks == uninterrupted.masks
    assert resumed.changed.keys() == uninterrupted.changed.keys()
    for key, entry in uninterrupted.changed.items():
        assert torch.equal(resumed.changed[key].tensor, entry.tensor), key


RANK = """
import sys
import torch
from timm_jackpot.runtime.processes import leave_process_group, make_accelerator
sys.path.insert(0, sys.argv[1])
from test_sparse_runs import masks_without_batch_norm

accelerator = make_accelerator(seed=0)
torch.save(masks_without_batch_norm(accelerator, batch_size=32), f"{sys.argv[2]}/{accelerator.process_index}.pt")
leave_process_group()
"""


def masks_without_batch_norm(accelerator: Accelerator, *, batch_size: int) -> dict[str, dict[str, Tensor]]:
    """The final masks of some methods in a small ViT, in which images in a batch do not see each other."""
    vit = {"model": "test_vit", "pretrained": False, "img_size": 32, "num_classes": 10}
    task = open_task(SearchConfig(**{**DATA, **vit, "batch_size": batch_size}), None, accelerator)[0]
    return {name: dict(run(task, name).masks or {}) for name in ON_TWO}


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_end_with_one_mask_and_it_is_that_of_one_process(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    folder = Path(__file__).parent
    path = f"{folder.parent}:{os.environ.get('PYTHONPATH', '')}"
    with started(2, ["-c", RANK, str(folder), str(tmp_path)], PYTHONPATH=path) as both:
        ended = [process.communicate(timeout=300) for process in both]
        assert [process.returncode for process in both] == [0, 0], ended
    alone = masks_without_batch_norm(accelerator, batch_size=64)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, masks in alone.items():
        one, first, second = MaskSet(masks), MaskSet(found[0][name]), MaskSet(found[1][name])
        assert first == second, name
        # Sums of gradients are rounded in another order, which may decide about a single weight.
        assert mask_overlap(one, first) > 0.9999, name
        assert chance_overlap(one, first) < 0.9
