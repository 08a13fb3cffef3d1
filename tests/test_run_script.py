"""`./run`: what it starts, and from where. Installing is .ci/run's to try."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX script")
ROOT = Path(__file__).parents[1]


def executable(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(tmp_path: Path, *words: str, python: str = "exit 0") -> subprocess.CompletedProcess[str]:
    """`./run` from another folder, with programs that say how they were called."""
    for name in ("timm-jackpot", "python"):
        executable(tmp_path / "venv" / "bin" / name, f'echo {name} "$@" in "$PWD"')
    executable(tmp_path / "bin" / "python3", python)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "JACKPOT_VENV": str(tmp_path / "venv")}
    words = (str(ROOT / "run"), *words)
    return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_it_installs_once_and_starts_what_is_asked_for(tmp_path: Path) -> None:
    first = run(tmp_path)
    install, started = first.stdout.splitlines()
    assert install == f"python -m pip install --quiet -e {ROOT} in {tmp_path}"
    assert started == f"timm-jackpot search in {tmp_path}"
    assert first.stderr == f"installing into {tmp_path / 'venv'} (a few minutes, once)\n"
    again = run(tmp_path, "evaluate", "my jackpot")
    assert (again.stdout, again.stderr) == (f"timm-jackpot evaluate my jackpot in {tmp_path}\n", "")
    install, started = run(tmp_path, "tests", "-x").stdout.splitlines()
    assert install == f"python -m pip install --quiet -e {ROOT}[dev] in {tmp_path}"
    assert started == f"python -m pytest -n 2 --dist loadfile -x in {ROOT}"


def test_a_python_that_is_too_old_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, python='[ "$1" != --version ] || { echo Python 3.8.2; exit 0; }; exit 1')
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: timm_jackpot needs Python 3.10 or later as python3: Python 3.8.2\n"
