"""Checkpoints: complete states of a run, written to a temporary folder and then renamed; old ones are deleted."""

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
_PER_RANK = ("buffer.", "random.", "shard.")  # name prefixes of tensors that differ between ranks
_INFO, _SUMS = "state.json", "SHA256SUMS"


class State(NamedTuple):
    """Everything a run needs to continue as if it had never stopped."""

    step: int  # optimizer steps done
    tensors: dict[str, Tensor]  # on this rank; only those named with a prefix in `_PER_RANK` can differ between ranks
    info: dict[str, Any]  # settings and record so far, the same on every rank


class Checkpoints:
    """The last complete states of a run, each in a folder `step-N`. It holds the tensors of rank 0, those of other
    ranks that differ, settings and record in state.json, and the digests of these files in SHA256SUMS (for `sha256sum
    -c`).

    The newest complete state survives a kill at any time: a folder gets its final name when all its files are on disk,
    and older ones are deleted only then. All processes must see the same folder.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self._accelerator = accelerator

    def save(self, state: State) -> Path:
        """Write a state; every rank calls this at the same step.

        Raises:
            TrainingError: if it cannot be written; older states are kept then.
        """
        final = self.folder / f"step-{state.step:08d}"
        temporary = self.folder / f".{final.name}"
        digest, fault = "", None
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            file = temporary / _file_of(self._accelerator.process_index)
            written = {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in state.tensors.items()
                if self._accelerator.is_main_process or name.startswith(_PER_RANK)
            }
            save_file(written, file)
            file.chmod(temporary.stat().st_mode & 0o666)  # as the umask says; safetensors lets only the owner read it
            sync(file)
            digest = _sha256(file)
        except (OSError, RuntimeError, SafetensorError) as error:
            fault = str(error)
        # Every rank learns of a fault on any rank, so that none waits for one that has given up.
        digests, fault = gather_object([digest]), self._first(fault)
        if self._accelerator.is_main_process and fault is None:
            try:
                self._complete(temporary, final, state, digests)
            except OSError as error:
                fault = str(error)
        fault = self._first(fault)
        if fault is not None:
            if self._accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)
            raise TrainingError(f"could not write a checkpoint to {self.folder}: {fault}")
        return final

    def newest(self) -> Path | None:
        """The newest checkpoint, complete or not."""
        found = self._all()
        return found[-1] if found else None

    def load(self, path: Path) -> State:
        """Load a saved state; every rank calls this with the same path.

        Raises:
            ConfigError: if the checkpoint is missing or damaged on any rank, or is from another number of processes.
        """
        state, damage = self._read(path)
        if state is None:
            raise ConfigError(damage)
        return state

    def load_newest(self) -> State | None:
        """Load the newest complete state, the same on every rank; damaged ones are skipped with a warning.

        Returns:
            None if there are no checkpoints.

        Raises:
            ConfigError: if all checkpoints are damaged, or the newest is from another number of processes.
        """
        damage = None
        for path in reversed(broadcast_object_list([self._all()])[0]):
            state, damage = self._read(path)
            if state is not None:
                return state
            say(f"warning: {damage}; trying an older one", self._accelerator)
        if damage is not None:
            raise ConfigError(f"{damage}, and there is no other: discard the unfinished run with --overwrite")
        return None

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + 8 * "[0-9]"))

    def _complete(self, temporary: Path, final: Path, state: State, digests: list[str]) -> None:
        """On the main process: add the shared files, rename the folder, delete old ones."""
        files = {_file_of(rank): digest for rank, digest in enumerate(digests)}
        info = temporary / _INFO
        text = json.dumps({"step": state.step, "ranks": self._accelerator.num_processes, **state.info})
        info.write_text(text, encoding="utf-8")
        sync(info)
        sums = temporary / _SUMS
        files[_INFO] = _sha256(info)
        sums.write_text("".join(f"{digest}  {name}\n" for name, digest in files.items()), encoding="utf-8")
        sync(sums)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(self.folder)
        for path in self._all()[:-_KEEP]:
            if path != final:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, path: Path) -> tuple[State | None, str]:
        """A state that is complete on every rank, or what is wrong on the first rank that cannot read it."""
        state, damage, ranks = None, None, self._accelerator.num_processes
        try:
            digests = {line[66:]: line[:64] for line in (path / _SUMS).read_text(encoding="utf-8").splitlines()}
            info = json.loads(_intact(path / _INFO, digests).read_text(encoding="utf-8"))
            if info["ranks"] == ranks:
                files = [_intact(path / _file_of(rank), digests) for rank in {0, self._accelerator.process_index}]
                tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
                state = State(info["step"], tensors, info)
            else:
                state = State(info["step"], {}, info)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            damage = f"{path} holds no complete checkpoint ({error})"
        damage = self._first(damage)
        if damage is not None:
            return None, damage
        assert state is not None
        if state.info["ranks"] != ranks:
            raise ConfigError(f"{path} is from a run with {state.info['ranks']} processes, but this run has {ranks}")
        return state, ""

    def _first(self, fault: str | None) -> str | None:
        return next((found for found in gather_object([fault]) if found is not None), None)


def _file_of(rank: int) -> str:
    return f"rank{rank}.safetensors"


def _intact(file: Path, digests: Mapping[str, str]) -> Path:
    """Raises: ValueError: if the digest of a file does not match."""
    if file.exists() and _sha256(file) != digests.get(file.name):
        raise ValueError(f"{file.name} is damaged: its digest does not match")
    return file


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()
