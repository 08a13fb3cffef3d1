"""No diagnostic ends a run: whoever reads stdout or stderr may go, or never have been there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from timm_jackpot.artifact import read_artifact

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the shell is bash")


def shell(line: str, folder: Path, steps: int = 20) -> subprocess.Popen[str]:
    """`line` in bash, in which SEARCH is a search in `folder`."""
    search = f"{sys.executable} -m timm_jackpot.search --steps {steps} --output {folder}"
    line = f"set -o pipefail; {line.replace('SEARCH', search)}"
    return subprocess.Popen(
        ["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "SEARCH 2>&1 | head -1",
        "SEARCH 2>&-",
        "SEARCH >&- 2>&-",
        "SEARCH | true",
        "SEARCH 2>/dev/full",
    ],
)
def test_a_run_whose_words_nobody_reads_comes_to_its_end(line: str, tmp_path: Path) -> None:
    process = shell(line, tmp_path / "j")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    assert "Error" not in out + err
    assert read_artifact(tmp_path / "j").config.info["results"]["steps"] == 20
    assert (tmp_path / "j" / "README.md").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_result_that_could_not_be_printed_is_no_success(tmp_path: Path) -> None:
    process = shell("SEARCH >/dev/full", tmp_path / "j", steps=1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.splitlines()[-1] == "error: the result could not be written to stdout: No space left on device"
    read_artifact(tmp_path / "j")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_that_comes_when_the_reader_has_gone_loses_no_step(number: int, tmp_path: Path) -> None:
    """As Ctrl-C in `2>&1 | tee log`, which ends `tee` first."""
    words = [sys.executable, "-m", "timm_jackpot.search", "-b", "8", "--steps", "5000", "--output", str(tmp_path / "j")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while b"step " not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.close()
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    assert list((tmp_path / "j" / "checkpoints").glob("step-*"))
