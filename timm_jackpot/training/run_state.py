"""A run between its start and its end: checkpoints, signals, and going on where it was stopped before."""

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
from timm_jackpot.training.record import Record, follow_with_tracker

CHECKPOINTS = "checkpoints"


class RunState:
    """Keeps the state of one run every so many steps, and when it is told to stop.

    Args:
        output: folder of the run; checkpoints lie in it until the artifact takes their place.
        resume: "auto" (the newest checkpoint of `output`, if there is one), the path of one, or None.
        every: steps between two checkpoints; 0 keeps none but those of an interruption and of the last step.
        overwrite: discard an unfinished run, and replace an artifact. A checkpoint remembers which one it may replace,
            so that a run that goes on need not say it again (the attribute `overwrite`).
        settings: what fixes the result; a checkpoint made with others is refused.

    Raises:
        ConfigError: if there is nothing to resume, it was made with other settings, or an unfinished run is in the way.
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
        allowed = self.resumed.about["replaces"] if self.resumed else None
        # Said now, or when the run began: then of the artifact that was there, and of no other.
        self.overwrite = overwrite or (occupant is not None and occupant == allowed)
        self._replaces = occupant if self.overwrite else None
        self.record = Record()
        self._all_steps_are_kept = False

    @property
    def seconds(self) -> float:
        """Wall time of the run, stops not counted."""
        return time.monotonic() - self._started + (self.resumed.about["seconds"] if self.resumed else 0.0)

    def identify(self, identity: dict[str, Any]) -> None:
        """Say what the run works on (base, data, arithmetic), which its settings name, but do not prove.

        Raises:
            ConfigError: if the checkpoint to go on from worked on something else.
        """
        self._identity = identity
        if self.resumed is not None:
            self._refuse_other("worked on", self.resumed.about["identity"], identity)
            self._all_steps_are_kept = self.resumed.step == identity["steps"]

    def keep_record(self, path: Path | None, tracker: dict[str, Any] | None) -> Record:
        """The run's record in `path`, beginning with what was written up to the checkpoint.

        Args:
            tracker: settings to begin the accelerator's tracker with, where there is one.
        """
        follow = follow_with_tracker(self._accelerator, tracker) if tracker is not None else None
        self.record = Record(path, follow)
        for event in self.resumed.about["events"] if self.resumed else ():
            self.record.write(**event)
        return self.record

    def after_step(self, step: int, steps: int, tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Called with the number of steps done; `steps` are all there are, and the state after the last is always kept:
        what comes then (evaluation, the artifact) can fail, and costs no step again.

        Raises:
            RunInterrupted: after the state was saved.
            TrainingError: if it could not be saved, unless no step is left: an artifact is much smaller than a state.
        """
        number = self.interruption.requested(step, last=step == steps)
        if not (number or step == steps or (self._every and step % self._every == 0)):
            return
        about = {
            "settings": self._settings,
            "identity": self._identity,
            "seconds": self.seconds,
            "events": self.record.events,
            "replaces": self._replaces,
        }
        try:
            self._checkpoints.save(State(step, tensors(), about))
        except TrainingError as error:
            if number or step < steps:
                raise TrainingError(f"{error}; free some space, then go on with --resume auto") from error
            say(f"warning: {error}; going on without", self._accelerator)
            return
        self._all_steps_are_kept = step == steps
        if number:
            raise self._stopped(f"after step {step} of {steps}", number)

    def after_all_steps(self) -> None:
        """Called before anything is evaluated: a signal need not wait from here on, and nothing is saved any more.

        Raises:
            RunInterrupted: now, or when a signal comes.
        """
        self.interruption.stop_at_once(lambda number: self._stopped("after its last step, before its end", number))

    def kept_notice(self) -> str | None:
        """What to tell people when something fails after the last step."""
        if not self._all_steps_are_kept:
            return None
        return f"note: no step is lost: --resume auto --output {self._output} goes on after the last one"

    def _stopped(self, when: str, number: int) -> RunInterrupted:
        name = signal.Signals(number).name
        return RunInterrupted(f"by {name} {when}; go on with --resume auto --output {self._output}", number)

    def _refuse_other(self, verb: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        odd = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
        if odd:
            what = ", ".join(f"{key} {theirs.get(key)!r}, not {ours.get(key)!r}" for key in odd)
            raise ConfigError(f"the checkpoint {verb} other settings ({what}): resume with the same ones")

    def _find(self, resume: str | None, *, overwrite: bool) -> State | None:
        newest = self._checkpoints.newest()
        if resume is None:
            if newest is not None and not overwrite:
                raise ConfigError(
                    f"{self._output} holds an unfinished run: go on with --resume auto, or discard it with --overwrite"
                )
            if newest is not None and self._accelerator.is_main_process:
                shutil.rmtree(newest.parent)
            return None
        state = self._checkpoints.load_newest() if resume == "auto" else self._checkpoints.load(Path(resume))
        if state is None:
            say(f"note: {self._output} holds no checkpoint; starting anew", self._accelerator)
            return None
        self._refuse_other("was made with", state.about["settings"], self._settings)
        say(f"resuming after step {state.step}", self._accelerator)
        return state
