"""A progress bar on a terminal, plain lines elsewhere; always on stderr, on the main process only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TypeVar

from accelerate import Accelerator
from tqdm import tqdm

T = TypeVar("T")
_FIRST, _BETWEEN = 10.0, 60.0  # seconds until the first line, and between two


class Progress:
    """Counts steps and shows the remaining time and the latest figures.

    If stderr is not a terminal, it prints a line after every tenth of the steps: the first within ten seconds, then at
    least one a minute, unless a single step takes longer.

    Args:
        done: steps done before the run was resumed.
        figures: the latest ones before the run was resumed.
        unit: the word for a step.
        only_if_long: show nothing in the first ten seconds, and remove the bar at the end.
    """

    def __init__(
        self,
        steps: int,
        title: str,
        *,
        enabled: bool,
        done: int = 0,
        figures: Mapping[str, float] | None = None,
        unit: str = "step",
        only_if_long: bool = False,
    ) -> None:
        self._steps, self._title, self._step, self._first, self._unit = steps, title, done, done, unit
        on_terminal = enabled and sys.stderr.isatty()
        quiet = {"leave": False, "delay": _FIRST} if only_if_long else {}
        self._bar = tqdm(total=steps, desc=title, file=sys.stderr, initial=done, **quiet) if on_terminal else None
        self._plain, self._tenths = enabled and not on_terminal, not only_if_long
        self._figures = _text(figures or {})
        self._started = self._now = time.monotonic()
        self._due = self._started + _FIRST

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, figures: Mapping[str, float] | None = None) -> None:
        self._step += 1
        step_began, self._now = self._now, time.monotonic()
        if figures:
            self._figures = _text(figures)
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures, refresh=False)
            self._bar.update()
            return
        too_late_after_the_next = 2 * self._now - step_began > self._due
        a_tenth = self._step % max(1, self._steps // 10) == 0 or self._step == self._steps
        if self._plain and ((a_tenth and self._tenths) or too_late_after_the_next):
            self._due = self._now + _BETWEEN
            seconds = (self._now - self._started) / (self._step - self._first) * (self._steps - self._step)
            left = f"{tqdm.format_interval(seconds)} left"
            what = f"{self._title}: {self._unit} {self._step}/{self._steps}"
            print(", ".join(filter(None, (what, left, self._figures))), file=sys.stderr, flush=True)


def with_progress(batches: Iterable[T], count: int, title: str, accelerator: Accelerator) -> Iterator[T]:
    """Iterate over `count` batches, showing progress if they take long."""
    with Progress(count, title, enabled=accelerator.is_main_process, unit="batch", only_if_long=True) as progress:
        for batch in batches:
            yield batch
            progress.advance()


def _text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
