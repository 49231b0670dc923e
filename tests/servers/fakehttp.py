"""The ground of the strict fakes: HTTP/1.1 on loopback, one function an endpoint, every request on record."""

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
class Asked:
    """One request. Header names are lower case; `path` is decoded, `query` has the last value of each name."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Told = tuple[int, Any]
"""(status, JSON value, or bytes as they are)"""


class FakeHttp:
    """`with Subclass() as fake:`; a subclass overrides `answer`. `stop` and `start` keep port and state."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[Asked] = []
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, asked: Asked) -> Told:
        raise NotImplementedError

    def headers(self, asked: Asked) -> dict[str, str]:
        """Headers of the answer just given, besides the usual ones."""
        return {}

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), _requests(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def get_request(self) -> tuple[socket.socket, Any]:
        wire, address = super().get_request()
        self.__dict__.setdefault("wires", []).append(wire)
        return wire, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that a test's network cut off is no error of the fake; any other has its traceback on standard error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def cut(self) -> None:
        """End the connections that are kept alive, as the end of a real process does."""
        for wire in self.__dict__.get("wires", []):
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)


def _requests(fake: FakeHttp) -> Callable[..., BaseHTTPRequestHandler]:
    class Requests(BaseHTTPRequestHandler):
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
            asked = Asked(self.command, unquote(parts.path), query, headers, body)
            fake.asked.append(asked)
            status, value = fake.answer(asked)
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, text in fake.headers(asked).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Requests
