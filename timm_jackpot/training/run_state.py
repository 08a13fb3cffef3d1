"""The state of a run: checkpoints, signals, and resuming."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from timm_jackpot.artifact import recover_folder
from timm_jackpot.data import Data, DataFlags
from timm_jackpot.errors import ArtifactError, BaseError, ConfigError, RunInterrupted, TrainingError
from timm_jackpot.runtime.interruption import Interruption
from timm_jackpot.runtime.lock import check_shared, locked
from timm_jackpot.runtime.processes import device_name, make_accelerator, say
from timm_jackpot.training.checkpoint import Checkpoints, State
from timm_jackpot.training.flags import OutputFlags, RunFlags
from timm_jackpot.training.record import Record, start_tracker

CHECKPOINTS, RECORDING = "checkpoints", "record.partial.jsonl"
_REFUSALS = (ArtifactError, BaseError, ConfigError)
_BIT_FOR_BIT = "the same seed gives the same result on this machine, bit for bit"
_NOT_QUITE = (
    "cuDNN kernels are deterministic; others (scatter, interpolation, attention backward) may round differently"
)
_FASTEST = "cuDNN chooses the fastest kernels: the same seed may give another result"


def run_accelerator(run: RunFlags, output: str, *, can_shard: bool = False) -> Accelerator:
    """The accelerator of a run that writes to `output`; seeds all random generators.

    Args:
        can_shard: as in `make_accelerator`.

    Raises:
        ConfigError: as `make_accelerator`.
    """
    return make_accelerator(
        seed=run.seed,
        grad_accum_steps=run.grad_accum_steps,
        report_to=run.report_to,
        logs=Path(f"{output}-logs") if run.report_to else None,
        timeout=run.timeout,
        can_shard=can_shard,
        deterministic=run.deterministic,
    )


def check_run_folder(folder: Path, *, result: Collection[str], finished: bool, overwrite: bool) -> None:
    """Refuse a folder whose content a run must not replace.

    Args:
        result: the names of what a run leaves.
        finished: whether the folder holds such a result.

    Raises:
        ConfigError: if it holds a result and `overwrite` is False, or anything else.
    """
    existing = {path.name for path in folder.iterdir()} - {RECORDING, CHECKPOINTS} if folder.exists() else set()
    replaceable = finished and existing <= set(result)
    if existing and not (replaceable and overwrite):
        instead = "choose a new folder, or replace it with --overwrite" if replaceable else "choose a new folder"
        raise ConfigError(f"--output {folder} already contains {min(existing)}: {instead}")


@contextmanager
def open_run(
    output: Path,
    accelerator: Accelerator,
    flags: OutputFlags,
    *,
    settings: dict[str, Any],
    digest: Callable[[Path], str | None],
) -> Iterator[RunState]:
    """Lock a run's folder against other runs, clean up after a killed one, and find the checkpoint to resume.

    Args:
        digest: what tells the result in a folder from any other; None if it holds no result.
        settings: as in `RunState`.

    Raises:
        ConfigError: if another run uses the folder, or not all processes see it; and as in `RunState`.
    """
    with locked(output) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            recover_folder(output)
        check_shared(output, accelerator)  # now, not at the first checkpoint, which may be hours away
        yield RunState(output, accelerator, flags, settings=settings, occupant=digest(output))


class RunState:
    """Saves the state of one run at regular steps and when a signal stops it, and resumes it.

    Args:
        output: folder of the run; it holds the checkpoints until the result replaces them.
        flags: with `overwrite`, an unfinished run is discarded and a result replaced. A checkpoint remembers which
            result it may replace, so a resumed run does not need the flag again (see the attribute `overwrite`).
        settings: settings that determine the result; checkpoints with other settings are refused.
        occupant: digest of the result that `output` holds.

    Raises:
        ConfigError: if a checkpoint to resume is unusable or has other settings, or `output` holds an unfinished run.
    """

    def __init__(
        self,
        output: Path,
        accelerator: Accelerator,
        flags: OutputFlags,
        *,
        settings: dict[str, Any],
        occupant: str | None,
    ) -> None:
        self._output, self._accelerator = output, accelerator
        self.interruption = Interruption(accelerator)
        self._every, self._settings = flags.checkpoint_steps, settings
        self._identity: dict[str, Any] = {}
        self._started = time.monotonic()
        self._checkpoints = Checkpoints(output / CHECKPOINTS, accelerator)
        self.resumed = self._find(flags.resume, overwrite=flags.overwrite)
        allowed = self.resumed.info["replaces"] if self.resumed else None
        # Allowed by the flag, now or when the run began; in the latter case only for the result that was there then.
        self.overwrite = flags.overwrite or (occupant is not None and occupant == allowed)
        self._replaces = occupant if self.overwrite else None
        self.record = Record()
        self._last_step_is_saved = False

    @property
    def seconds(self) -> float:
        """Wall time of the run, without interruptions."""
        return time.monotonic() - self._started + (self.resumed.info["seconds"] if self.resumed else 0.0)

    def begin(self, subject: str, data: Data, flags: DataFlags, steps: int, **identity: str) -> None:
        """Say what the run works on: the actual data and arithmetic, which its settings only name.

        Args:
            subject: for people: what is done to which network.
            identity: digests of what else the result depends on.

        Raises:
            ConfigError: if the checkpoint to resume from worked on something else.
        """
        images = [len(data.train), len(data.test)]
        say(
            f"{subject}, on {device_name(self._accelerator.device)}; {data.name}, {images[0]:,} training and "
            f"{images[1]:,} test images; {steps:,} steps of {flags.batch_size} images; into {self._output}",
            self._accelerator,
        )
        self._identity = {
            **identity,
            "data": data.name,
            "data_dir": flags.data_dir,
            "images": images,
            "steps": steps,
            "mixed_precision": self._accelerator.mixed_precision,
            "device": self._accelerator.device.type,
        }
        if self.resumed is not None:
            self._refuse_other("worked on", self.resumed.info["identity"], self._identity)
            self._last_step_is_saved = self.resumed.step == steps

    @contextmanager
    def recorded(self) -> Iterator[Record]:
        """From the first step to the end of the run: keep its record, and obey signals after a step.

        However it ends, the record and the trackers are closed; after a failure, a notice says what can be resumed.
        """
        record = self._open_record()
        with self.interruption:
            try:
                yield record
            except RunInterrupted:  # its message says how to resume
                raise
            except Exception as error:
                notice = self._kept_notice()
                say(notice, self._accelerator)
                if notice is None and isinstance(error, _REFUSALS):  # before any training
                    self._leave_nothing()
                raise
            finally:
                record.close()
                for tracker in self._accelerator.trackers:
                    tracker.finish()  # `end_training` would also destroy the process group, which a sweep still needs

    def after_step(self, step: int, steps: int, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Call with the number of steps done, out of `steps`. The state after the last step is always saved, so that a
        later failure (in evaluation, or writing the result) costs no steps.

        Raises:
            RunInterrupted: after saving the state, if a signal asked to stop.
            TrainingError: if saving failed, except after the last step: the result is smaller and may still fit.
        """
        number = self.interruption.requested(step, last=step == steps)
        if not (number or step == steps or (self._every and step % self._every == 0)):
            return
        info = {
            "settings": self._settings,
            "identity": self._identity,
            "seconds": self.seconds,
            "events": self.record.events,
            "replaces": self._replaces,
        }
        try:
            self._checkpoints.save(State(step, tensors(), info))
        except TrainingError as error:
            if number or step < steps:
                raise TrainingError(f"{error}; free some space, then continue with --resume auto") from error
            say(f"warning: {error}; continuing without it", self._accelerator)
            return
        self._last_step_is_saved = step == steps
        if number:
            raise self._stopped(f"after step {step} of {steps}", number)

    @contextmanager
    def before_first_step(self) -> Iterator[None]:
        """Around work before the first step of which nothing is saved: there, a signal stops the run at once.

        Raises:
            RunInterrupted: when a signal arrives.
        """
        self.interruption.stop_at_once(lambda number: self._stopped("before its first step", number))
        try:
            yield
        finally:
            self.interruption.stop_after_a_step()

    def after_all_steps(self) -> None:
        """Call before the final evaluation: from here on, a signal stops the run at once and nothing is saved.

        Raises:
            RunInterrupted: now, or when a signal arrives.
        """
        self.interruption.stop_at_once(
            lambda number: self._stopped("after the last step, before the end of the run", number)
        )

    def _kept_notice(self) -> str | None:
        """A notice for a failure after the last step."""
        if not self._last_step_is_saved:
            return None
        return f"note: no steps are lost: --resume auto --output {self._output} continues after the last one"

    def _open_record(self) -> Record:
        """Open the record, and write the events up to the checkpoint to it, or how the run starts."""
        track = start_tracker(self._accelerator, self._settings) if self._accelerator.log_with else None
        try:
            self.record = Record(self._recording(), track)
        except OSError as error:
            raise ConfigError(f"--output {self._output} cannot be written: {error.strerror}") from error
        if self.resumed is not None:
            for event in self.resumed.info["events"]:
                self.record.write(**event)
            self.record.write("resume", step=self.resumed.step)
            return self.record
        self.record.write(
            "start",
            config=self._settings,
            steps=self._identity["steps"],
            processes=self._accelerator.num_processes,
            distributed_type=self._accelerator.distributed_type.value,
            mixed_precision=self._accelerator.mixed_precision,
            device=device_name(self._accelerator.device),
            torch=torch.__version__,
            deterministic=self._how_deterministic(),
            threads=torch.get_num_threads(),
        )
        return self.record

    def _how_deterministic(self) -> str:
        if self._accelerator.device.type == "cpu":
            return _BIT_FOR_BIT
        kernels = _NOT_QUITE if torch.backends.cudnn.deterministic else _FASTEST
        tf32 = {"convolutions": torch.backends.cudnn.allow_tf32, "matrices": torch.backends.cuda.matmul.allow_tf32}
        return f"{kernels}; TF32 for {' and '.join(name for name, on in tf32.items() if on) or 'nothing'}"

    def _recording(self) -> Path | None:
        if not self._accelerator.is_main_process:
            return None
        self._output.mkdir(parents=True, exist_ok=True)
        return self._output / RECORDING

    def _leave_nothing(self) -> None:
        self.record.close()
        if self._accelerator.is_main_process:
            (self._output / RECORDING).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                self._output.rmdir()

    def _stopped(self, when: str, number: int) -> RunInterrupted:
        name = signal.Signals(number).name
        return RunInterrupted(f"by {name} {when}; continue with --resume auto --output {self._output}", number)

    def _refuse_other(self, verb: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        different = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
        if different:
            what = ", ".join(f"{key} {theirs.get(key)!r}, not {ours.get(key)!r}" for key in different)
            raise ConfigError(f"the checkpoint {verb} other settings ({what}): resume with the same ones")

    def _find(self, resume: str | None, *, overwrite: bool) -> State | None:
        newest = self._checkpoints.newest()
        if resume is None:
            if newest is not None and not overwrite:
                raise ConfigError(
                    f"{self._output} holds an unfinished run: continue with --resume auto, or discard it with "
                    "--overwrite"
                )
            if newest is not None and self._accelerator.is_main_process:
                shutil.rmtree(newest.parent)
            return None
        state = self._checkpoints.load_newest() if resume == "auto" else self._checkpoints.load(Path(resume))
        if state is None:
            say(f"note: {self._output} holds no checkpoint; starting from scratch", self._accelerator)
            return None
        self._refuse_other("was made with", state.info["settings"], self._settings)
        say(f"resuming after step {state.step}", self._accelerator)
        return state
