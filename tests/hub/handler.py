"""The HTTP side of the test Hub: sockets in, sockets out, and the faults on the way."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from .faults import AFTER, BEFORE, corrupted
from .messages import HubError, Request, Response

if TYPE_CHECKING:
    from .server import TestHub

LOOPBACK = "127.0.0.1"


class Server(ThreadingHTTPServer):
    """A server that knows its open connections, so as to end them when the test ends."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: TestHub) -> None:
        self.hub = hub
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        super().__init__((LOOPBACK, 0), Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own would ask the network for the host's name
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.hub.errors.append(error)

    def close(self) -> None:
        """Stop serving; waiting clients are cut off."""
        self.closing.set()
        self.shutdown()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Reads a request, has it answered, and spoils the answer when a fault is due."""

    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, *args: object) -> None:  # type: ignore[override]
        """Say nothing: tests read ``TestHub.requests``."""

    def _serve(self) -> None:
        hub, request = self.server.hub, self._request()
        hub.requests.append(request)
        response = self._broken(request) or hub.answer(request)
        request.status = response.status
        spoil = hub.faults.take(request, AFTER) if self._can_spoil(response) else None
        if spoil is not None and spoil.kind == "corrupt":
            response.body = corrupted(response.body)
        self._send(response, cut=spoil is not None and spoil.kind == "cut")

    def _request(self) -> Request:
        split = urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        query = parse_qs(split.query)
        return Request(self.command, split.path, query, authorization, self.headers, self._body())

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(self._chunks())
        return self._read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line().split(b";")[0], 16):
            yield self._read(size)
            self._line()
        while self._line().strip():
            pass

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise ConnectionAbortedError("the client left in the middle of a request")
        return line

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError("the client left in the middle of a request")
        return data

    def _broken(self, request: Request) -> Response | None:
        """The error answer that a fault asks for, if one is due; or a pause."""
        if self.server.hub.down:
            return HubError(503, "Service Unavailable").response()
        fault = self.server.hub.faults.take(request, BEFORE)
        if fault is None:
            return None
        if fault.kind == "slow":
            self.server.closing.wait(fault.seconds)
            return None
        return HubError(int(fault.kind), "Internal Error - We're working hard to fix this").response()

    def _can_spoil(self, response: Response) -> bool:
        return self.command != "HEAD" and response.status < 300 and bool(response.body)

    def _send(self, response: Response, cut: bool) -> None:
        """Send the answer; ``cut`` ends the connection halfway through the body."""
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if cut:
            self.close_connection = True
            response.body = response.body[: len(response.body) // 2]
        if self.command != "HEAD":
            self.wfile.write(response.body)
