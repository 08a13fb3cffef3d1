"""The Hub tests once more, with the oldest client that the package promises to work with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OLDEST = "1.33"


@pytest.mark.slow
def test_the_oldest_client_passes_the_hub_tests(tmp_path: Path) -> None:
    client = tmp_path / "client"
    install = ["pip", "install", "--quiet", "--target", str(client), f"huggingface_hub=={OLDEST}.*"]
    subprocess.run([sys.executable, "-m", *install], check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(client)}
    version = "import huggingface_hub; print(huggingface_hub.__version__)"
    found = subprocess.run([sys.executable, "-c", version], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(OLDEST)
    tests = [str(Path(__file__).with_name(name)) for name in ("test_hub_server.py", "test_hub.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
