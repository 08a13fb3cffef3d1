"""Whatever is typed ends in a result or one sentence, soon, in little memory, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import command_lines
import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="fork, FIFOs, sparse files, and /proc to measure memory"
)


def ended(tmp_path: Path, seed: int, count: int, timeout: float) -> list[dict[str, Any]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    (tmp_path / "root").mkdir()
    words = [sys.executable, command_lines.__file__, str(seed), str(count), str(tmp_path / "root")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def faults(found: list[dict[str, Any]]) -> list[str]:
    return [f"{one['fault']}: {one['words']}: {one['stderr'][-300:]}" for one in found if one["fault"]]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_random_command_lines_end_in_a_result_or_one_sentence(seed: int, tmp_path: Path) -> None:
    found = ended(tmp_path, seed, 500, timeout=3600)
    assert len(found) == 500
    codes = Counter(one["code"] for one in found)
    assert codes[0] >= 25, "lines that run tell whether the others were refused for what is wrong with them"
    assert codes[2] >= 250
    assert faults(found) == []


@pytest.mark.slow
def test_hostile_bases_are_refused_in_one_sentence_or_read(tmp_path: Path) -> None:
    found = ended(tmp_path, 0, 0, timeout=3600)
    assert len(found) > 200
    assert {one["code"] for one in found} == {0, 2}
    assert faults(found) == []
