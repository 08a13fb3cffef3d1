"""As a program: load the artifacts that it is told to, watched, and say what came."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.bases import arguments
from hostile.case import GOOD, SECRET


class _TooSlow(BaseException):
    pass


def _raise_too_slow(*_: object) -> None:
    raise _TooSlow


def status(field: str) -> int:
    """A memory figure of this process in bytes: VmRSS (now) or VmHWM (at most, so far)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Let the kernel count the peak anew; `ru_maxrss` cannot be, and starts with the parent's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


_FORBIDDEN = (
    "pickle.find_class",
    "socket.",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "shutil.",
    "urllib.",
    "http.",
    "ctypes.dlopen",
)


class Watch:
    """What the interpreter did that no artifact may make it do."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._on = False
        sys.addaudithook(self._hook)

    def __enter__(self) -> list[str]:
        self.seen, self._on = [], True
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and (SECRET in str(arguments[0]) or "w" in str(arguments[1] or "")):
            self.seen.append(f"open {arguments!r}"[:200])

    def forbid(self, owner: Any, name: str) -> None:
        def refuse(*_: object, **__: object) -> None:
            self.seen.append(f"{owner.__name__}.{name}")
            raise AssertionError(f"{name} was called")

        setattr(owner, name, refuse)


def attempt(load: Callable[[], object]) -> tuple[str, str]:
    """("refused", message), ("accepted", ""), or ("crashed", what escaped)."""
    from timm_jackpot.errors import JackpotError

    signal.signal(signal.SIGALRM, _raise_too_slow)
    signal.alarm(20)
    try:
        load()
    except JackpotError as error:
        return "refused", str(error)
    except BaseException as error:
        return "crashed", f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.alarm(0)
    return "accepted", ""


class Tester:
    """Loads artifacts in a process that is watched."""

    def __init__(self, root: Path) -> None:
        import pickle
        import resource

        import huggingface_hub
        import torch

        from timm_jackpot.artifact import from_pretrained, read_artifact

        self._root, self._load, self._read = root, from_pretrained, read_artifact
        for good in GOOD:
            self._load(root / "good" / good, **arguments(root, good))
        attempt(lambda: self._load(root / "nothing"))
        self._watch = Watch()
        for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
            self._watch.forbid(owner, name)
        self._watch.forbid(huggingface_hub, "hf_hub_download")
        # A hole shall end in a MemoryError, not take the machine down.
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + (4 << 30), resource.RLIM_INFINITY))
        forget_peak()
        self._baseline = status("VmHWM")

    def __call__(self, folder: str, base: str) -> dict[str, Any]:
        given = arguments(self._root, base)
        modules = set(sys.modules)
        forget_peak()
        with self._watch as seen:
            started = time.perf_counter()
            outcome, message = attempt(lambda: self._load(self._root / folder, **given))
            seconds = time.perf_counter() - started
            alone, message_alone = attempt(lambda: self._read(self._root / folder))
            seconds_alone = time.perf_counter() - started - seconds
        return {
            "outcome": outcome,
            "message": message if alone != "crashed" else message_alone,
            "alone": alone,
            "seconds": max(seconds, seconds_alone),
            "grown": status("VmHWM") - self._baseline,
            "imported": sorted(set(sys.modules) - modules),
            "seen": seen,
        }


def main() -> None:
    """Folder and base in, one pair per line; what came of it out."""
    answers = os.fdopen(os.dup(1), "w")  # whatever else prints must not come between
    os.dup2(2, 1)
    test = Tester(Path(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(test(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
