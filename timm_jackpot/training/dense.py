"""What dense training and fine-tuning share: the run, its figures, the folder that holds the weights."""

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
from timm_jackpot.training.flags import TrainFlags, make_optimizer
from timm_jackpot.training.loop import fit
from timm_jackpot.training.mixing import make_mixer
from timm_jackpot.training.norm_statistics import average_norm_statistics
from timm_jackpot.training.objective import Objective
from timm_jackpot.training.record import Record, follow_with_tracker
from timm_jackpot.training.schedule import cosine

_RUNNING = "record.partial.jsonl"


class DenseFlags(DataFlags, TrainFlags):
    """The settings that dense training and fine-tuning share."""

    group: ClassVar[str] = "Output"

    output: str
    """Folder for model.safetensors, config.json (load it with local-dir:FOLDER) and the record."""


@dataclass(frozen=True)
class DenseRun:
    """One training run of a model's own weights into a folder."""

    title: str
    model: nn.Module  # on the device; what asks for gradients is trained
    data: Data
    config: DenseFlags
    steps: int
    accelerator: Accelerator

    def train_and_save(self, summarise: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Train, read the test split once, save weights, config and record.

        Args:
            summarise: from this run's figures to the summary that is recorded and returned.

        Raises:
            ConfigError, ArtifactError: if the folder cannot be written.
            TrainingError: as `fit`.
        """
        folder, config, accelerator = Path(self.config.output), self.config, self.accelerator
        mix = make_mixer(config, self.data.num_classes, config.batch_size, config.seed)
        follow = follow_with_tracker(accelerator, _settings(config)) if config.report_to else None
        record = Record(_fresh_record(folder) if accelerator.is_main_process else None, follow)
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
                lr_at=lambda step: cosine(step, self.steps, peak=config.lr),
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
            summary = summarise(figures)
            record.write("result", **summary)
        finally:
            record.close()
            for tracker in accelerator.trackers:
                tracker.finish()
        if accelerator.is_main_process:
            replace_folder(folder.resolve(), {**timm_checkpoint(self.model), **_notes(record, config)})
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
    """Hold the output folder for a run; refused before anything is loaded if it is not to be written to.

    Raises:
        ConfigError: if it cannot be written, another run holds it, or it holds more than an unfinished run leaves.
    """
    folder = check_output(config.output)
    with locked(folder) if launched_as_main() else nullcontext():
        if launched_as_main():
            recover_folder(folder)
            there = sorted(path.name for path in folder.iterdir() if path.name != _RUNNING) if folder.exists() else []
            if there:
                raise ConfigError(f"--output {folder} holds {there[0]} already: name a fresh folder")
        yield


def _fresh_record(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be written: {error.strerror}") from error
    return folder / _RUNNING


def _settings(config: DenseFlags) -> dict[str, Any]:
    """Without this machine's paths."""
    return config.model_dump(mode="json", exclude={"output", "data_dir", "base_checkpoint"})


def _notes(record: Record, config: DenseFlags) -> dict[str, bytes]:
    recipe = yaml.safe_dump(_settings(config), sort_keys=False)
    return {"record.jsonl": record.lines().encode(), "recipe.yaml": recipe.encode()}
