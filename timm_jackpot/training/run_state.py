"""The state of a run: checkpoints, signals, and resuming."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from timm_jackpot.artifact import artifact_digest
from timm_jackpot.errors import ConfigError, RunInterrupted, TrainingError
from timm_jackpot.runtime.interruption import Interruption
from timm_jackpot.runtime.processes import say
from timm_jackpot.training.checkpoint import Checkpoints, State
from timm_jackpot.training.record import Record, start_tracker

CHECKPOINTS = "checkpoints"


class RunState:
    """Saves the state of one run at regular steps and when a signal stops it, and resumes it.

    Args:
        output: folder of the run; it holds the checkpoints until the artifact replaces them.
        resume: "auto" (the newest checkpoint in `output`, if any), the path of a checkpoint, or None.
        every: steps between checkpoints; 0 saves one only on interruption and after the last step.
        overwrite: discard an unfinished run, and replace an artifact. A checkpoint remembers which artifact it may
            replace, so a resumed run does not need this flag again (see the attribute `overwrite`).
        settings: settings that determine the result; checkpoints with other settings are refused.

    Raises:
        ConfigError: if a checkpoint to resume is unusable or has other settings, or `output` holds an unfinished run.
    """

    def __init__(
        self,
        output: Path,
        accelerator: Accelerator,
        *,
        resume: str | None,
        every: int,
        overwrite: bool,
        settings: dict[str, Any],
    ) -> None:
        self._output, self._accelerator = output, accelerator
        self.interruption = Interruption(accelerator)  # to be entered from the first step to the end
        self._every, self._settings = every, settings
        self._identity: dict[str, Any] = {}
        self._started = time.monotonic()
        self._checkpoints = Checkpoints(output / CHECKPOINTS, accelerator)
        self.resumed = self._find(resume, overwrite=overwrite)
        occupant = artifact_digest(output)
        allowed = self.resumed.info["replaces"] if self.resumed else None
        # Allowed by the flag, now or when the run began; in the latter case only for the artifact that was there then.
        self.overwrite = overwrite or (occupant is not None and occupant == allowed)
        self._replaces = occupant if self.overwrite else None
        self.record = Record()
        self._last_step_is_saved = False

    @property
    def seconds(self) -> float:
        """Wall time of the run, without interruptions."""
        return time.monotonic() - self._started + (self.resumed.info["seconds"] if self.resumed else 0.0)

    def identify(self, identity: dict[str, Any]) -> None:
        """Record what the run works on: the actual base, data and arithmetic, which its settings only name.

        Raises:
            ConfigError: if the checkpoint to resume from worked on something else.
        """
        self._identity = identity
        if self.resumed is not None:
            self._refuse_other("worked on", self.resumed.info["identity"], identity)
            self._last_step_is_saved = self.resumed.step == identity["steps"]

    def keep_record(self, path: Path | None, tracker: dict[str, Any] | None) -> Record:
        """Open the run's record in `path`, and write the events up to the checkpoint to it.

        Args:
            tracker: settings to start the accelerator's tracker with, if it has one.
        """
        track = start_tracker(self._accelerator, tracker) if tracker is not None else None
        self.record = Record(path, track)
        for event in self.resumed.info["events"] if self.resumed else ():
            self.record.write(**event)
        return self.record

    def after_step(self, step: int, steps: int, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Call with the number of steps done, out of `steps`. The state after the last step is always saved, so that a
        later failure (in evaluation, or writing the artifact) costs no steps.

        Raises:
            RunInterrupted: after saving the state, if a signal asked to stop.
            TrainingError: if saving failed, except after the last step: the artifact is much smaller and may still fit.
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

    def after_all_steps(self) -> None:
        """Call before the final evaluation: from here on, a signal stops the run at once and nothing is saved.

        Raises:
            RunInterrupted: now, or when a signal arrives.
        """
        self.interruption.stop_at_once(
            lambda number: self._stopped("after the last step, before the end of the run", number)
        )

    def kept_notice(self) -> str | None:
        """A notice for a failure after the last step."""
        if not self._last_step_is_saved:
            return None
        return f"note: no steps are lost: --resume auto --output {self._output} continues after the last one"

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
