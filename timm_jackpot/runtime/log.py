"""The package's logger, `logging.getLogger("timm_jackpot")`: messages during a run, on stderr."""

from __future__ import annotations

import logging
import sys


class _Stderr(logging.Handler):
    """Writes plain lines to the current `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            print(record.getMessage(), file=sys.stderr, flush=True)


log = logging.getLogger("timm_jackpot")
if not log.handlers:  # none of the user's own
    log.addHandler(_Stderr())
    log.setLevel(logging.INFO)
    log.propagate = False
