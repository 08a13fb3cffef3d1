"""stdout and stderr that cannot end a run, even if their readers have exited."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


@contextmanager
def harmless_streams() -> Iterator[None]:
    """Within this context, output that cannot be written to stdout or stderr is dropped without an error.

    Ctrl-C in `2>&1 | tee log` ends `tee` first; `| head -3` reads three lines and exits; `2>&-` has no stderr at all.

    Raises:
        SystemExit: at the end, if stdout failed for a reason other than a closed pipe (such as a full disk).
    """
    before = sys.stdout, sys.stderr
    out, err = _SafeStream(sys.stdout, 1), _SafeStream(sys.stderr, 2)
    sys.stdout, sys.stderr = out, err  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
        out.flush()
        if out.fault is not None and not isinstance(out.fault, BrokenPipeError):
            err.write(f"error: the result could not be written to stdout: {out.fault.strerror or out.fault}\n")
            sys.exit(2)
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


class _SafeStream:
    """A stream that discards output after its first error.

    Args:
        stream: None if the process was started without it.
        descriptor: its number; if left free, the next file opened would get it.
    """

    def __init__(self, stream: TextIO | None, descriptor: int) -> None:
        if stream is None:
            try:
                os.fstat(descriptor)
            except OSError:
                _redirect_to_null(descriptor)
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long-lived as the process
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.fault = self.fault or error
            with suppress(OSError):
                _redirect_to_null(self._stream.fileno())  # also what is still buffered
        except (ValueError, RuntimeError):  # closed, or a signal handler interrupted a write
            pass


def _redirect_to_null(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
