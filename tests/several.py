"""What each of several processes does in tests/test_processes.py; prints its findings as one JSON object."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from timm_jackpot.data import Batch
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.runtime.processes import explain_lost_process, make_accelerator, same_everywhere
from timm_jackpot.training import Checkpoints, Objective, Record, State, checkpoint, fit

IMAGES, STEPS = 47, 10
TIMEOUT = 5.0


def numbered(n: int) -> MemoryImages:
    """`n` images that tell their own number, which is their label too."""
    labels = torch.arange(n)
    images = labels.byte()[:, None, None, None].expand(n, 1, 2, 2).contiguous()
    return MemoryImages(images, labels, (0.0,), (1 / 255,), 0.0, 0)


class Knows(nn.Module):
    """Answers with the image's own number, but for every fifth one."""

    def forward(self, images: Tensor) -> Tensor:
        numbers = images[:, 0, 0, 0].round().long()
        return nn.functional.one_hot(torch.where(numbers % 5 == 0, numbers + 1, numbers), IMAGES + 1).float()


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, IMAGES))


def trained(accelerator: Any, batch_size: int) -> dict[str, Any]:
    """Ten steps over three epochs and a bit; which images were read in each, and the weights at the end."""
    seen: list[list[int]] = []

    def note(_: int, batch: Batch) -> Batch:
        seen.append(batch.labels.tolist())
        return batch

    model = small_net()
    fit(
        accelerator=accelerator,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        objective=Objective(0.0),
        train=numbered(IMAGES),
        batch_size=batch_size,
        seed=1,
        steps=STEPS,
        lr_at=lambda step: 0.1 / IMAGES**2,
        record=Record(),
        title="test",
        mix=note,
    )
    return {"seen": seen, "weights": [parameter.flatten().tolist() for parameter in model.parameters()]}


def accuracies(accelerator: Any) -> list[Any]:
    return [
        evaluate_accuracy(Knows(), numbered(n), batch_size=batch_size, accelerator=accelerator)
        for n, batch_size in ((IMAGES, 4), (IMAGES, 100), (11, 1), (2, 3), (1, 1))
    ]


def states(accelerator: Any, folder: Path) -> dict[str, Any]:
    rank = accelerator.process_index
    checkpoints = Checkpoints(folder, accelerator)
    for step in (1, 2):
        checkpoints.save(State(step, {"all": torch.tensor([step]), "buffer.mine": torch.tensor([step, rank])}, {}))
    found: dict[str, Any] = {}
    save_file = checkpoint.save_file
    if rank == 1:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        checkpoint.save_file = full
    try:
        checkpoints.save(State(3, {}, {}))
    except TrainingError as error:
        found["full"] = str(error)
    checkpoint.save_file = save_file
    newest = folder / "step-00000002"
    accelerator.wait_for_everyone()
    if rank == accelerator.num_processes - 1:
        (newest / f"rank{rank}.safetensors").write_bytes(b"damaged")
    accelerator.wait_for_everyone()
    try:
        checkpoints.load(newest)
    except ConfigError as error:
        found["damaged"] = str(error)
    older = checkpoints.load_newest()
    assert older is not None
    found["older"] = [older.tensors["all"].tolist(), older.tensors["buffer.mine"].tolist()]
    found["written"] = sorted(load_file(folder / "step-00000001" / f"rank{rank}.safetensors"))
    return found


def main(folder: Path) -> None:
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # Imports take their time on a busy machine; the clock of the timeout runs when all have done with them.
    (folder / f"ready{rank}").touch()
    while len(list(folder.glob("ready*"))) < count:
        time.sleep(0.05)
    accelerator = make_accelerator(seed=0, timeout=TIMEOUT)
    found = {"rank": rank, "processes": accelerator.num_processes, "accuracies": accuracies(accelerator)}
    found |= trained(accelerator, 4) | states(accelerator, folder / "checkpoints")
    try:
        same_everywhere("other" if rank == 1 else "one", accelerator, "the mask")
    except TrainingError as error:
        found["differ"] = str(error)
    if rank == count - 1:
        print(json.dumps(found), flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)  # there, and answers nothing
    started = time.monotonic()
    try:
        with explain_lost_process():
            accelerator.wait_for_everyone()
    except TrainingError as error:
        found["lost"] = str(error)
    found["waited"] = time.monotonic() - started
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
