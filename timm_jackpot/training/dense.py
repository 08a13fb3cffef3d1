"""Shared by dense training and fine-tuning: the run, its figures, the output folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from accelerate import Accelerator
from torch import nn

from timm_jackpot.artifact import recover_folder, replace_folder, timm_checkpoint
from timm_jackpot.data import Data, DataFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.runtime.lock import locked
from timm_jackpot.runtime.outputs import check_output
from timm_jackpot.runtime.processes import launched_as_main
from timm_jackpot.training.flags import TrainFlags, learning_rate, make_optimizer
from timm_jackpot.training.loop import fit
from timm_jackpot.training.mixing import make_mixer
from timm_jackpot.training.norm_statistics import average_norm_statistics
from timm_jackpot.training.objective import Objective
from timm_jackpot.training.record import Record, start_tracker

_RUNNING = "record.partial.jsonl"


class DenseFlags(DataFlags, TrainFlags):
    """Settings shared by dense training and fine-tuning."""

    group: ClassVar[str] = "Output"

    output: str
    """Folder for model.safetensors, config.json (load it with local-dir:FOLDER) and the record."""


@dataclass(frozen=True)
class DenseRun:
    """One run that trains a model's own weights and saves them to a folder."""

    title: str
    model: nn.Module  # on the device; parameters that require gradients are trained
    data: Data
    config: DenseFlags
    steps: int
    accelerator: Accelerator

    def train_and_save(self, summarize: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Train, evaluate once on the test split, and save weights, config and record.

        Args:
            summarize: turns the figures of this run into the summary that is recorded and returned.

        Raises:
            ConfigError, ArtifactError: if the folder cannot be written.
            TrainingError: as in `fit`.
        """
        folder, config, accelerator = Path(self.config.output), self.config, self.accelerator
        mix = make_mixer(config, self.data.num_classes, config.batch_size, config.seed)
        track = start_tracker(accelerator, _settings(config)) if config.report_to else None
        record = Record(_fresh_record(folder) if accelerator.is_main_process else None, track)
        try:
            fit(
                accelerator=accelerator,
                model=self.model,
                optimizer=make_optimizer(config, (p for p in self.model.parameters() if p.requires_grad)),
                objective=Objective(config.label_smoothing),
                train=self.data.train,
                batch_size=config.batch_size,
                seed=config.seed,
                steps=self.steps,
                lr_at=lambda step: learning_rate(config, step, self.steps),
                record=record,
                title=self.title,
                mix=mix,
                torchcompile=config.torchcompile,
                channels_last=config.channels_last,
            )
            average_norm_statistics(self.model, accelerator)
            figures = {
                "dataset": self.data.name,
                "top1": self._accuracy("test"),
                "validation_top1": self._accuracy("val"),
                "test_images": len(self.data.test),
                "steps": self.steps,
                "seed": config.seed,
                "checkpoint": str(folder / "model.safetensors"),
            }
            summary = summarize(figures)
            record.write("result", **summary)
        finally:
            record.close()
            for tracker in accelerator.trackers:
                tracker.finish()
        if accelerator.is_main_process:
            replace_folder(folder.resolve(), {**timm_checkpoint(self.model), **_record_files(record, config)})
        return summary

    def _accuracy(self, split: str) -> float | None:
        source = getattr(self.data, split)
        if source is None:
            return None
        return evaluate_accuracy(
            self.model, source, batch_size=self.config.batch_size, accelerator=self.accelerator
        ).top1


@contextmanager
def dense_output(config: DenseFlags) -> Iterator[None]:
    """Lock the output folder for a run, before anything is loaded.

    Raises:
        ConfigError: if it cannot be written, another run uses it, or it is not empty (except for an unfinished run).
    """
    folder = check_output(config.output)
    with locked(folder) if launched_as_main() else nullcontext():
        if launched_as_main():
            recover_folder(folder)
            existing = (
                sorted(path.name for path in folder.iterdir() if path.name != _RUNNING) if folder.exists() else []
            )
            if existing:
                raise ConfigError(f"--output {folder} already contains {existing[0]}: choose a new folder")
        yield


def _fresh_record(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be written: {error.strerror}") from error
    return folder / _RUNNING


def _settings(config: DenseFlags) -> dict[str, Any]:
    """The settings without paths of this machine."""
    return config.model_dump(mode="json", exclude={"output", "data_dir", "base_checkpoint"})


def _record_files(record: Record, config: DenseFlags) -> dict[str, bytes]:
    recipe = yaml.safe_dump(_settings(config), sort_keys=False)
    return {"record.jsonl": record.lines().encode(), "recipe.yaml": recipe.encode()}
