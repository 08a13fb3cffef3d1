"""One request on its way to an answer: the table of endpoints, and what a caller may do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .messages import HubError, Request, Response
from .repos import Commit, Repo

if TYPE_CHECKING:
    from .server import TestHub

Endpoint = Callable[..., Response]
ROUTES: list[tuple[str, re.Pattern[str], Endpoint]] = []

API = r"/api/(?P<kind>models|datasets)/(?P<repo_id>[^/]+/[^/]+)"
SITE = r"/(?:(?P<kind>datasets)/)?(?P<repo_id>[^/]+/[^/]+)"
REV = r"/(?P<revision>[^/]+)"


def route(method: str, pattern: str) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint; the pattern applies to the path as sent (with its percent signs)."""

    def register(endpoint: Endpoint) -> Endpoint:
        ROUTES.append((method, re.compile(pattern), endpoint))
        return endpoint

    return register


class Call:
    """One request being answered: the store, the request, who makes it and the names in its path."""

    def __init__(self, hub: TestHub, request: Request, names: dict[str, str]) -> None:
        self.hub = hub
        self.request = request
        self.names = names
        self.user = self._user()

    def _user(self) -> str | None:
        if not self.request.has_token:
            return None
        user = self.hub.users.get(self.request.token or "")
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def need_user(self) -> str:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    def repo(self) -> Repo:
        """The repository in the path, which one without access is told not to exist."""
        repo_type = (self.names.get("kind") or "models").removesuffix("s")
        repo = self.hub.repos.get((repo_type, self.names["repo_id"]))
        if repo is None or not repo.may_see(self.user):
            if self.user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def commit(self, repo: Repo) -> Commit:
        """The commit in the path, by default the head of main."""
        revision = self.names.get("revision") or "main"
        commit = repo.find(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def need_write(self, repo: Repo) -> None:
        """Refuse one who may not push; a pull request is open to every user."""
        if self.user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if not repo.may_write(self.user) and not self.request.flag("create_pr"):
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")

    def need_download(self, repo: Repo) -> None:
        if repo.may_download(self.user):
            return
        if self.user is None:
            message = f"Access to {repo.repo_type} {repo.repo_id} is restricted. Please log in."
            raise HubError(401, message, "GatedRepo")
        message = f"Access to {repo.repo_type} {repo.repo_id} is restricted: ask for access."
        raise HubError(403, message, "GatedRepo")
