"""A progress bar on a terminal, plain lines elsewhere; always on stderr, on the main process only."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm

_FIRST, _BETWEEN = 10.0, 60.0  # seconds until the first line, and between two


class Progress:
    """Counts steps, says how long the rest will take, and shows the latest figures.

    Off a terminal, a line for every tenth of the steps; the first one within ten seconds, and one a minute at least,
    as far as steps are shorter than that.

    Args:
        done: steps of an earlier life of the run.
        figures: the latest ones of that life.
    """

    def __init__(
        self, steps: int, title: str, *, enabled: bool, done: int = 0, figures: Mapping[str, float] | None = None
    ) -> None:
        self._steps, self._title, self._step, self._first = steps, title, done, done
        on_terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(total=steps, desc=title, file=sys.stderr, initial=done) if on_terminal else None
        self._plain = enabled and not on_terminal
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
        if self._plain and (a_tenth or too_late_after_the_next):
            self._due = self._now + _BETWEEN
            seconds = (self._now - self._started) / (self._step - self._first) * (self._steps - self._step)
            left = tqdm.format_interval(seconds)
            print(
                f"{self._title}: step {self._step}/{self._steps}, {left} left, {self._figures}",
                file=sys.stderr,
                flush=True,
            )


def _text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
