"""The test Hub by itself: what needs no client, and what the client does not ask for."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import hub_environment, run_python
from .repos import sha256
from .server import TestHub


@pytest.fixture
def hub() -> Iterator[TestHub]:
    with TestHub() as running:
        yield running


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """A plain request, without the client and without proxies."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_ranges_and_heads(hub: TestHub) -> None:
    oid = hub.add_repo("bob/masks", {"mask.safetensors": b"0123456789"})
    url = f"{hub.url}/bob/masks/resolve/main/mask.safetensors"
    status, body, headers = get(url, "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "10")
    assert headers["X-Repo-Commit"] == oid
    assert headers["X-Linked-Size"] == "10"
    assert headers["ETag"] == headers["X-Linked-Etag"] == f'"{sha256(b"0123456789")}"'
    status, body, headers = get(url, Range="bytes=7-")
    assert (status, body, headers["Content-Range"]) == (206, b"789", "bytes 7-9/10")
    assert get(url, Range="bytes=2-3")[:2] == (206, b"23")
    assert get(url, Range="bytes=10-")[0] == 416


def test_says_what_it_does_not_know(hub: TestHub) -> None:
    assert get(f"{hub.url}/api/spaces/bob/app")[0] == 501
    with pytest.raises(ValueError, match="unknown kind"):
        hub.fail("", "explode")  # type: ignore[arg-type]
    hub.add_repo("bob/masks", {})
    with pytest.raises(KeyError, match="no revision"):
        hub.files("bob/masks", "nowhere")


def test_own_failures_are_not_passed_over() -> None:
    hub = TestHub()
    hub.add_repo("bob/masks", {})
    hub.repo("bob/masks").refs["main"] = None  # type: ignore[assignment]

    def use() -> None:
        with hub:
            assert get(f"{hub.url}/api/models/bob/masks")[0] == 500

    with pytest.raises(RuntimeError, match="failed to answer"):
        use()


@pytest.mark.parametrize("length", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_client_may_leave(hub: TestHub, length: str) -> None:
    hub.add_repo("bob/masks", {})
    with socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))) as connection:
        head = f"POST /api/models/bob/masks/commit/main HTTP/1.1\r\nHost: hub\r\n{length}\r\n\r\n"
        connection.sendall(head.encode() + b"40\r\n{")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert hub.requests == []


def test_commits_made_by_the_test(hub: TestHub) -> None:
    first = hub.add_repo("bob/masks", {"a": b"1", "b": b"2"})
    second = hub.commit("bob/masks", {"a": None, "c/d": b"3"})
    branch = hub.commit("bob/masks", {"a": b"4"}, branch="dev")
    assert hub.files("bob/masks") == {"b": b"2", "c/d": b"3"}
    assert hub.files("bob/masks", first) == {"a": b"1", "b": b"2"}
    assert hub.commits("bob/masks", "dev") == [first, second, branch]
    assert hub.pushes("bob/masks") == 0
    assert len(first) == 40
    assert len({first, second, branch}) == 3


def test_environment_is_closed(hub: TestHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "https_proxy", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, "http://elsewhere")
    environment = hub_environment(hub, tmp_path)
    assert "elsewhere" not in "".join(environment.values())
    assert environment["HF_ENDPOINT"] == hub.url
    assert hub_environment(hub, tmp_path, "hf_bob")["HF_TOKEN"] == "hf_bob"
    code = "import os; print(os.environ['HF_HOME'], end='')"
    assert run_python(code, environment).stdout == os.fspath(tmp_path)
