"""Run the genuine client against a test Hub, in a Python process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .server import TestHub

PRELUDE = """
import json
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete
from huggingface_hub import HfApi, get_token, hf_hub_download, snapshot_download

api = HfApi()
answers = {}

def attempt(action):
    try:
        return action()
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return [type(error).__name__, status]

def content(*arguments, **keywords):
    def read():
        with open(hf_hub_download(*arguments, **keywords), "rb") as file:
            return file.read().decode("latin-1")
    return attempt(read)
"""

FOREIGN = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")


def hub_environment(hub: TestHub, home: Path, token: str | None = None) -> dict[str, str]:
    """Environment of a process that knows no Hub but this one, no cache or token but those in ``home``."""
    environment = {name: value for name, value in os.environ.items() if not _is_foreign(name)}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "TORCH_HOME": str(home / "torch"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    if token is not None:
        environment["HF_TOKEN"] = token
    return environment


def _is_foreign(name: str) -> bool:
    return name.startswith(FOREIGN) or name.upper().endswith("_PROXY") or name == "XDG_CACHE_HOME"


def run_python(code: str, env: Mapping[str, str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a (possibly indented) piece of Python code; its output is captured as text."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=timeout, check=False)


def ask(hub: TestHub, home: Path, code: str, token: str | None = None, **extra: str) -> dict[str, Any]:
    """Run code in a process of the client; what it left in ``answers``.

    The code finds ``api``, ``attempt(action)`` (the action's result, or the name and status of its error),
    ``content(repo_id, filename, ...)`` and the usual functions of ``huggingface_hub``; ``extra`` are further
    environment variables.
    """
    program = f"{PRELUDE}\n{textwrap.dedent(code)}\nprint(json.dumps(answers))"
    result = run_python(program, hub_environment(hub, home, token) | extra)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
