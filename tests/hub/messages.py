"""Requests and responses of the test Hub, apart from sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, unquote


@dataclass
class Request:
    """One request as it came in; tests read these in ``TestHub.requests``."""

    method: str
    raw_path: str
    query: dict[str, list[str]]
    authorization: str | None
    headers: Message = field(repr=False)
    body: bytes = field(repr=False, default=b"")
    status: int | None = None
    """Status of the answer; None while there is none."""

    @property
    def path(self) -> str:
        """The path without percent signs (a revision such as refs/pr/1 shows its slashes)."""
        return unquote(self.raw_path)

    @property
    def has_token(self) -> bool:
        return self.authorization is not None

    @property
    def token(self) -> str | None:
        """The bearer token, or None."""
        scheme, _, token = (self.authorization or "").partition(" ")
        return token if scheme.lower() == "bearer" else None

    def flag(self, name: str) -> bool:
        """Whether a query parameter is set to 1 or true."""
        return self.query.get(name, [""])[0].lower() in ("1", "true")

    def json(self) -> Any:
        return json.loads(self.body)

    def ndjson(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]

    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    found = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return Response(status, json.dumps(value).encode(), found)


class HubError(Exception):
    """Ends a request with an error answer, in the headers that the client reads."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"X-Error-Message": message, **(headers or {})}
        if code is not None:
            self.headers["X-Error-Code"] = code

    def response(self) -> Response:
        return json_response({"error": self.message}, self.status, self.headers)
