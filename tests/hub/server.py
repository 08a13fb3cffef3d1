"""The test Hub itself: what tests start, fill, break and question."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from urllib.parse import unquote

from . import reading, writing  # noqa: F401  (they fill the table of endpoints)
from .calls import ROUTES, Call
from .faults import Fault, FaultKind, FaultPlan
from .handler import LOOPBACK, Server
from .messages import HubError, Request, Response
from .repos import Repo, is_lfs, sha256


class TestHub:
    """A Hub on loopback, all in memory, that serves while the ``with`` block lasts.

    Users are named after namespaces: ``add_repo("alice/masks", ...)`` makes the user alice, whose token
    is "hf_alice". Only alice writes there, and only she reads it when it is private (``allow`` adds others).

    With ``cdn=True`` LFS files are redirected to another host name, as the real Hub does.
    """

    __test__ = False

    def __init__(self, *, cdn: bool = False) -> None:
        self.cdn = cdn
        self.down = False
        """Set it to have every request answered 503."""
        self.requests: list[Request] = []
        """All requests so far, oldest first."""
        self.errors: list[BaseException] = []
        """Failures of the Hub itself; leaving the ``with`` block raises the first."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.users: dict[str, str] = {}
        self.faults = FaultPlan()
        self._lock = threading.RLock()
        self._server: Server
        self._thread: threading.Thread

    # -- life -----------------------------------------------------------------------------------

    def __enter__(self) -> TestHub:
        self._server = Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self._thread.join()
        if error is None and self.errors:
            raise RuntimeError("the test Hub failed to answer a request") from self.errors[0]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}"

    @property
    def cdn_url(self) -> str:
        return f"http://localhost:{self._server.server_port}"

    # -- content --------------------------------------------------------------------------------

    def add_user(self, name: str) -> str:
        """Make a user known; the user's token."""
        token = f"hf_{name}"
        self.users[token] = name
        return token

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        repo_type: str = "model",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Create a repository with a first commit on main; the commit's id."""
        self.add_user(repo_id.split("/")[0])
        with self._lock:
            self.repos[repo_type, repo_id] = Repo(repo_id, repo_type, private, gated)
            return self.commit(repo_id, files, repo_type=repo_type)

    def allow(self, repo_id: str, user: str, repo_type: str = "model", write: bool = False) -> str:
        """Let a user read a private or gated repository, or also write to it; the user's token."""
        repo = self.repo(repo_id, repo_type)
        (repo.writers if write else repo.readers).add(user)
        return self.add_user(user)

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | None],
        branch: str = "main",
        repo_type: str = "model",
    ) -> str:
        """Commit changed files (None deletes one), on a branch made from main if it is new; the id."""
        with self._lock:
            repo = self.repo(repo_id, repo_type)
            if branch not in repo.refs:
                repo.add_ref(branch)
            head = repo.find(branch)
            merged = {**(head.files if head else {}), **files}
            kept = {path: data for path, data in merged.items() if data is not None}
            self.objects.update({sha256(data): data for path, data in kept.items() if is_lfs(path, len(data))})
            return repo.add_commit(kept, branch).oid

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[repo_type, repo_id]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        commit = self.repo(repo_id, repo_type).find(revision)
        if commit is None:
            raise KeyError(f"no revision {revision} in {repo_id}")
        return dict(commit.files)

    def commits(self, repo_id: str, branch: str = "main", repo_type: str = "model") -> list[str]:
        """Ids of the commits of a branch or of refs/pr/N, oldest first."""
        return [commit.oid for commit in self.repo(repo_id, repo_type).history(branch)]

    def pushes(self, repo_id: str, repo_type: str = "model") -> int:
        """How many commits came over HTTP, to whatever ref."""
        return self.repo(repo_id, repo_type).pushes

    # -- faults ---------------------------------------------------------------------------------

    def fail(
        self,
        path_substring: str,
        kind: FaultKind,
        times: int | None = 1,
        *,
        method: str | None = None,
        seconds: float = 1.0,
    ) -> None:
        """Spoil the next ``times`` answers (None: all) to requests whose path holds the text.

        "500" and "503" answer with that status, "slow" answers after ``seconds``. "cut" ends the connection
        halfway through the body and "corrupt" changes the body's last byte: both wait for a successful answer
        with a body, and the request has taken effect when they strike.
        """
        self.faults.add(Fault(path_substring, kind, times, method, seconds))

    def heal(self) -> None:
        """Forget all faults."""
        self.down = False
        self.faults.clear()

    # -- requests -------------------------------------------------------------------------------

    def requests_to(self, path_substring: str, method: str | None = None) -> list[Request]:
        return [
            request
            for request in list(self.requests)
            if path_substring in request.path and method in (None, request.method)
        ]

    def answer(self, request: Request) -> Response:
        """What the Hub replies to a request."""
        try:
            with self._lock:
                return self._dispatch(request)
        except HubError as error:
            return error.response()
        except Exception as error:
            self.errors.append(error)
            return HubError(500, f"The test Hub failed: {error!r}").response()

    def _dispatch(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        for known_method, pattern, endpoint in ROUTES:
            match = pattern.fullmatch(request.raw_path)
            if match and known_method == method:
                names = {name: unquote(value) for name, value in match.groupdict().items() if value}
                return endpoint(Call(self, request, names))
        raise HubError(501, f"The test Hub has no {request.method} {request.path}")
