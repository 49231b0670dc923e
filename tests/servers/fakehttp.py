"""The base of the fake HTTP services: HTTP/1.1 on loopback, with a record of all requests."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.processes import free_port


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are lower case; `path` is decoded, `query` has the last value of each name."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, Any]
"""The status, and a JSON value or the bytes of the body."""


class FakeHttp:
    """Used as `with Subclass() as fake:`; a subclass overrides `answer`. The port and the state outlive `stop` and `start`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[Request] = []
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def headers(self, request: Request) -> dict[str, str]:
        """Return further headers for the answer to a request."""
        return {}

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), _handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.close_connections()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.__dict__.setdefault("connections", []).append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that a test broke. Other errors print their traceback on standard error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """End persistent connections, as the end of a server process does."""
        for connection in self.__dict__.get("connections", []):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _handler_of(fake: FakeHttp) -> Callable[..., BaseHTTPRequestHandler]:
    class RecordingHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionResetError("the request broke off")
            request = Request(self.command, unquote(parts.path), query, headers, body)
            fake.requests.append(request)
            status, value = fake.answer(request)
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, text in fake.headers(request).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return RecordingHandler
