"""Complete states of a run on disk: written aside, renamed, the old ones pruned afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from timm_jackpot.errors import ConfigError, TrainingError

_KEEP = 2


class State(NamedTuple):
    """Everything that a run needs to go on as if it had never stopped."""

    step: int  # optimizer steps done
    tensors: dict[str, Tensor]  # this rank's
    about: dict[str, Any]  # settings and record so far, the same on every rank


class Checkpoints:
    """The last complete states of a run, each in a folder `step-N`, one file for each rank.

    A kill at any instant leaves the newest complete one usable: a folder gets its name when everything in it is on
    the disk, and older ones go after that.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self._accelerator = accelerator

    def save(self, state: State) -> Path:
        """Write a state; every rank calls this at the same step.

        Raises:
            TrainingError: if it cannot be written; the older states are still there then.
        """
        final = self.folder / f"step-{state.step:08d}"
        aside = self.folder / f".{final.name}"
        fault = None
        try:
            aside.mkdir(parents=True, exist_ok=True)
            file = aside / self._file
            save_file(
                {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in state.tensors.items()},
                file,
            )
            _sync(file)
            if self._accelerator.is_main_process:
                about = aside / "state.json"
                text = json.dumps({"step": state.step, "ranks": self._accelerator.num_processes, **state.about})
                about.write_text(text, encoding="utf-8")
                _sync(about)
        except (OSError, RuntimeError, SafetensorError) as error:
            fault = f"a checkpoint could not be written to {self.folder}: {error}"
        # Every rank hears of a fault of any, and none waits for one that has given up.
        fault = _first(self._accelerator, fault)
        if self._accelerator.is_main_process:
            if fault is None:
                shutil.rmtree(final, ignore_errors=True)
                aside.rename(final)
                _sync(self.folder)
                self._prune(final)
            else:
                shutil.rmtree(aside, ignore_errors=True)
        if fault is not None:
            raise TrainingError(f"{fault}; free some space, then go on with --resume auto")
        self._accelerator.wait_for_everyone()
        return final

    def newest(self) -> Path | None:
        found = sorted(self.folder.glob("step-" + 8 * "[0-9]"))
        return found[-1] if found else None

    def load(self, path: Path) -> State:
        """A state as it was saved.

        Raises:
            ConfigError: if `path` holds none, or one of another number of processes.
        """
        try:
            about = json.loads((path / "state.json").read_text(encoding="utf-8"))
            ranks = self._accelerator.num_processes
            if about["ranks"] != ranks:
                raise ConfigError(f"{path} is the state of {about['ranks']} processes, and these are {ranks}")
            return State(about["step"], load_file(path / self._file), about)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path} holds no complete checkpoint: {error}") from error

    @property
    def _file(self) -> str:
        return f"rank{self._accelerator.process_index}.safetensors"

    def _prune(self, newest: Path) -> None:
        for path in sorted(self.folder.glob("step-" + 8 * "[0-9]"))[:-_KEEP]:
            if path != newest:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's generators on this rank."""
    states = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["random.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["random.cuda"], device)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Momenta and the like, by the position of their parameter."""
    return {
        f"optimizer.{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _first(accelerator: Accelerator, fault: str | None) -> str | None:
    if accelerator.num_processes == 1:
        return fault
    return next((found for found in gather_object([fault]) if found is not None), None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
