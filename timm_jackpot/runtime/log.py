"""The package's logger, `logging.getLogger("timm_jackpot")`: what people are told while a run goes on, on stderr."""

from __future__ import annotations

import logging
import sys


class _Stderr(logging.Handler):
    """Writes plain lines to what `sys.stderr` is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            print(record.getMessage(), file=sys.stderr, flush=True)


log = logging.getLogger("timm_jackpot")
if not log.handlers:  # none of the user's own
    log.addHandler(_Stderr())
    log.setLevel(logging.INFO)
    log.propagate = False
