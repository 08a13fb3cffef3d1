"""Complete states of a run on disk: written aside, renamed, the old ones pruned afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from timm_jackpot.errors import ConfigError, TrainingError
from timm_jackpot.runtime.outputs import sync
from timm_jackpot.runtime.processes import say

_KEEP = 2
_OWN = ("buffer.", "random.")  # how names of tensors begin that differ between ranks
_ABOUT, _SUMS = "state.json", "SHA256SUMS"


class State(NamedTuple):
    """Everything that a run needs to go on as if it had never stopped."""

    step: int  # optimizer steps done
    tensors: dict[str, Tensor]  # on this rank; only those named `buffer.…` and `random.…` may differ between ranks
    about: dict[str, Any]  # settings and record so far, the same on every rank


class Checkpoints:
    """The last complete states of a run, each in a folder `step-N`: rank 0's tensors, of the other ranks those that
    differ, settings and record in state.json, and the digests of all these files in SHA256SUMS (for `sha256sum -c`).

    A kill at any instant leaves the newest complete one usable: a folder gets its name when everything in it is on
    the disk, and older ones go after that. All processes must see the same folder.
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
        digest, fault = "", None
        try:
            aside.mkdir(parents=True, exist_ok=True)
            file = aside / _file_of(self._accelerator.process_index)
            written = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in state.tensors.items()
                if self._accelerator.is_main_process or name.startswith(_OWN)
            }
            save_file(written, file)
            sync(file)
            digest = _sha256(file)
        except (OSError, RuntimeError, SafetensorError) as error:
            fault = str(error)
        # Every rank hears of a fault of any, and none waits for one that has given up.
        digests, fault = gather_object([digest]), self._first(fault)
        if self._accelerator.is_main_process and fault is None:
            try:
                self._complete(aside, final, state, digests)
            except OSError as error:
                fault = str(error)
        fault = self._first(fault)
        if fault is not None:
            if self._accelerator.is_main_process:
                shutil.rmtree(aside, ignore_errors=True)
            raise TrainingError(f"a checkpoint could not be written to {self.folder}: {fault}")
        return final

    def newest(self) -> Path | None:
        """The newest one, whole or not."""
        found = self._all()
        return found[-1] if found else None

    def load(self, path: Path) -> State:
        """A state as it was saved; every rank calls this with the same path.

        Raises:
            ConfigError: if `path` holds none or a damaged one, on any rank, or one of another number of processes.
        """
        state, damage = self._read(path)
        if state is None:
            raise ConfigError(damage)
        return state

    def load_newest(self) -> State | None:
        """The newest complete state, the same on every rank; damaged ones are passed over with a notice.

        Returns:
            None if there is nothing at all.

        Raises:
            ConfigError: if all there are are damaged, or the newest is one of another number of processes.
        """
        damage = None
        for path in reversed(broadcast_object_list([self._all()])[0]):
            state, damage = self._read(path)
            if state is not None:
                return state
            say(f"warning: {damage}; looking for an older one", self._accelerator)
        if damage is not None:
            raise ConfigError(f"{damage}, and there is no other: discard the unfinished run with --overwrite")
        return None

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + 8 * "[0-9]"))

    def _complete(self, aside: Path, final: Path, state: State, digests: list[str]) -> None:
        """On the main process: add what all share, give the folder its name, drop old ones."""
        files = {_file_of(rank): digest for rank, digest in enumerate(digests)}
        for name in files:
            if not (aside / name).exists():
                raise FileNotFoundError(f"{name} of another process is not there: do all see the same folder?")
        about = aside / _ABOUT
        text = json.dumps({"step": state.step, "ranks": self._accelerator.num_processes, **state.about})
        about.write_text(text, encoding="utf-8")
        sync(about)
        sums = aside / _SUMS
        files[_ABOUT] = _sha256(about)
        sums.write_text("".join(f"{digest}  {name}\n" for name, digest in files.items()), encoding="utf-8")
        sync(sums)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        sync(self.folder)
        for path in self._all()[:-_KEEP]:
            if path != final:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, path: Path) -> tuple[State | None, str]:
        """A state that is whole on every rank, or else what is wrong with it on the first rank that cannot read it."""
        state, damage, ranks = None, None, self._accelerator.num_processes
        try:
            digests = {line[66:]: line[:64] for line in (path / _SUMS).read_text(encoding="utf-8").splitlines()}
            about = json.loads(_intact(path / _ABOUT, digests).read_text(encoding="utf-8"))
            if about["ranks"] == ranks:
                files = [_intact(path / _file_of(rank), digests) for rank in {0, self._accelerator.process_index}]
                tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
                state = State(about["step"], tensors, about)
            else:
                state = State(about["step"], {}, about)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            damage = f"{path} holds no complete checkpoint ({error})"
        damage = self._first(damage)
        if damage is not None:
            return None, damage
        assert state is not None
        if state.about["ranks"] != ranks:
            raise ConfigError(f"{path} is the state of {state.about['ranks']} processes, and these are {ranks}")
        return state, ""

    def _first(self, fault: str | None) -> str | None:
        return next((found for found in gather_object([fault]) if found is not None), None)


def _file_of(rank: int) -> str:
    return f"rank{rank}.safetensors"


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


def _intact(file: Path, digests: Mapping[str, str]) -> Path:
    """Raises: ValueError: if the bytes are not those that were written."""
    if file.exists() and _sha256(file) != digests.get(file.name):
        raise ValueError(f"{file.name} is not as it was written")
    return file


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()
