"""Shared by dense training and fine-tuning: the run, its figures, the output folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn

from timm_jackpot.artifact import recover_folder, replace_folder, timm_checkpoint
from timm_jackpot.base import norm_statistics
from timm_jackpot.data import Data, DataFlags
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.recipes import read_yaml
from timm_jackpot.runtime.lock import locked
from timm_jackpot.runtime.log import log
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import launched_as_main
from timm_jackpot.training.flags import (
    UNPUBLISHED,
    OutputFlags,
    TrainFlags,
    learning_rate,
    make_optimizer,
    uses_channels_last,
)
from timm_jackpot.training.loop import fit
from timm_jackpot.training.mixing import make_mixer
from timm_jackpot.training.norm_statistics import average_norm_statistics
from timm_jackpot.training.objective import Objective
from timm_jackpot.training.record import Record, read_record
from timm_jackpot.training.run_state import CHECKPOINTS, RunState, check_run_folder, open_run, run_accelerator
from timm_jackpot.training.run_tensors import RunTensors

_WEIGHTS, _RECORD, _RECIPE = "model.safetensors", "record.jsonl", "recipe.yaml"
_RESULT = {_WEIGHTS, "config.json", _RECORD, _RECIPE}


class DenseFlags(DataFlags, TrainFlags, OutputFlags):
    """Settings shared by dense training and fine-tuning."""

    group: ClassVar[str] = "Output"

    output: str  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    """Folder for model.safetensors, config.json (load it with local-dir:FOLDER) and the record."""


@dataclass(frozen=True)
class DenseRun:
    """One run that trains a model's own weights and saves them to a folder."""

    title: str
    model: nn.Module  # on the device; parameters that require gradients are trained
    data: Data
    config: DenseFlags
    steps: int
    state: RunState
    accelerator: Accelerator
    save_steps: tuple[int, ...] = ()  # numbers of steps after which the weights are kept too

    def train_and_save(self, summarize: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Train, evaluate once on the test split, and save weights, config and record.

        Args:
            summarize: turns the figures of this run into the summary that is recorded and returned.

        Raises:
            ConfigError, ArtifactError: if the folder cannot be written.
            RunInterrupted: if a signal stopped the run.
            TrainingError: as in `fit`.
        """
        folder = Path(self.config.output)
        early = {step: _zeros_like_state(self.model) for step in self.save_steps}
        with self.state.recorded() as record:
            self._train(record, early)
            self.state.after_all_steps()
            average_norm_statistics(self.model, self.accelerator)
            figures = {
                "dataset": self.data.name,
                "top1": self._accuracy("test"),
                "validation_top1": self._accuracy("val"),
                "test_images": len(self.data.test),
                "steps": self.steps,
                "seed": self.config.seed,
                "checkpoint": str(folder / _WEIGHTS),
            }
            summary = {**summarize(figures), "seconds": round(self.state.seconds, 2)}
            record.write("result", **summary)
            record.close()
            if self.accelerator.is_main_process:
                recipe = yaml.safe_dump(_settings(self.config), sort_keys=False)
                files = {_RECORD: record.lines().encode(), _RECIPE: recipe.encode()}
                files |= {
                    _early_weights(step): save(weights, metadata={"format": "pt"}) for step, weights in early.items()
                }
                replace_folder(folder.resolve(), {**timm_checkpoint(self.model), **files})
        return summary

    def _train(self, record: Record, early: Mapping[int, dict[str, Tensor]]) -> None:
        """Train the model from the first step, or from the checkpoint to resume, and fill `early` on the way."""
        config, state, steps = self.config, self.state, self.steps
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        optimizer = make_optimizer(config, trained.values())
        named = {f"parameter.{name}": weight for name, weight in trained.items()}
        named |= {f"early.{step}.{name}": tensor for step, kept in early.items() for name, tensor in kept.items()}
        tensors = RunTensors(lambda: named, self.model, optimizer, self.accelerator)
        if state.resumed is not None:
            tensors.restore(state.resumed.tensors)
        first_step = state.resumed.step if state.resumed is not None else 0
        if first_step == steps:
            return

        def before_step(step: int) -> None:
            if step in early:
                self._copy_state(early[step])

        fit(
            accelerator=self.accelerator,
            model=self.model,
            optimizer=optimizer,
            objective=Objective(config.label_smoothing),
            train=self.data.train,
            batch_size=config.batch_size,
            seed=config.seed,
            steps=steps,
            lr_at=lambda step: learning_rate(config, step, steps),
            record=record,
            title=self.title,
            before_step=before_step,
            after_step=lambda step: state.after_step(step, steps, tensors.current),
            first_step=first_step,
            mix=make_mixer(config, self.data.num_classes, config.batch_size, config.seed),
            torchcompile=config.torchcompile,
            channels_last=uses_channels_last(config, self.accelerator.device),
        )

    @torch.no_grad()
    def _copy_state(self, into: Mapping[str, Tensor]) -> None:
        """The present weights, with norm statistics averaged over the processes."""
        state = self.model.state_dict()
        for name, tensor in into.items():
            tensor.copy_(state[name])
        for name in norm_statistics(self.model) if self.accelerator.num_processes > 1 else ():
            mean = self.accelerator.reduce(state[name].clone(), reduction="mean")
            into[name].copy_(mean)  # pyright: ignore[reportArgumentType]

    def _accuracy(self, split: str) -> float | None:
        source = getattr(self.data, split)
        if source is None:
            return None
        return evaluate_accuracy(
            self.model, source, batch_size=self.config.batch_size, accelerator=self.accelerator
        ).top1


@contextmanager
def open_dense_run(config: DenseFlags) -> Iterator[tuple[Accelerator, RunState]]:
    """Start the processes, lock the output folder and find the checkpoint to resume, before anything is loaded.

    Raises:
        ConfigError: if the folder cannot be written, another run uses it, or it holds something else.
    """
    folder = check_output(config.output)
    accelerator = run_accelerator(config, config.output)
    with open_run(folder, accelerator, config, settings=_settings(config), digest=_digest) as state:
        result = {*_RESULT, *(path.name for path in folder.glob(_early_weights("*")))}
        check_run_folder(folder, result=result, finished=_digest(folder) is not None, overwrite=state.overwrite)
        yield accelerator, state


def finished_summary(config: DenseFlags) -> dict[str, Any] | None:
    """The summary of a finished run with these settings in the output folder of `--resume auto`; None if there is none.

    Raises:
        JackpotError: if another run is using the folder.
    """
    if config.resume != "auto" or config.overwrite:
        return None
    folder, is_main = check_output(config.output), launched_as_main()
    with locked(folder) if is_main else nullcontext():
        if is_main:
            recover_folder(folder)
        recipe = folder / _RECIPE
        if _digest(folder) is None or (folder / CHECKPOINTS).exists() or not recipe.is_file():
            return None
        if read_yaml(recipe.read_text(encoding="utf-8"), str(recipe)) != _settings(config):
            return None
        if is_main:
            log.info(f"note: this run has already finished, its checkpoint is in {folder}")
        return {key: value for key, value in read_record(folder / _RECORD).last("result").items() if key != "kind"}


def _early_weights(step: int | str) -> str:
    return f"step_{step}.safetensors"


def _zeros_like_state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def _digest(folder: Path) -> str | None:
    """The sha256 of the record beside the weights that a run saved in `folder`; None if there are none."""
    if not (folder / _WEIGHTS).is_file() or not (folder / _RECORD).is_file():
        return None
    return hashlib.sha256((folder / _RECORD).read_bytes()).hexdigest()


def _settings(config: DenseFlags) -> dict[str, Any]:
    """The settings without paths of this machine, as written to recipe.yaml."""
    return config.model_dump(mode="json", exclude=UNPUBLISHED)
