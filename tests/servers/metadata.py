"""An emulator of the clouds' metadata services on loopback, strict about method, path, headers, tokens and versions.

In a test: `with Metadata("ec2") as service: ... service.url`. In a namespace, for a booted image:
`python3 tests/servers/metadata.py --platform ec2 --bind 169.254.169.254:80`. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers.metadata_answers import Answer, Request, State
from tests.servers.metadata_platforms import PLATFORMS

FAULTS = (
    "hang",
    "500",
    "500-once",
    "429-once",
    "404",
    "reset-once",
    "truncated",
    "not-utf8",
    "not-json",
    "empty",
    "large",
    "redirect",
    "drip",
    "page",
)


@dataclass
class Metadata:
    """One platform's service on `host`:`port`, in a thread. `fault` names the fault, and `on` a part of the paths that have it.

    `seen` holds every request, `violations` those that a real service would have refused or not understood. `steering` is a
    file with more options in JSON, read for each request, for a service in another process.
    """

    platform: str
    fault: str = ""
    on: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    unix_socket: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    steering: Path | None = None
    seen: list[Request] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state: State = PLATFORMS[self.platform](self.options)
        self._stopping = threading.Event()
        self._faulted = 0

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def __enter__(self) -> Metadata:
        self._server = _server(self)
        if not self.unix_socket:
            self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, request: Request) -> Answer:
        """Return the platform's answer, and record a violation."""
        self.seen.append(request)
        if self.steering is not None and self.steering.exists():
            self.options.update(json.loads(self.steering.read_text("utf-8")))
        answer = self.state.answer(request)
        if answer.violation:
            self.violations.append(f"{request.method} {request.path}: {answer.violation}")
        return answer

    def fault_for(self, path: str) -> str:
        """Return the fault of this request, or ""."""
        if not self.fault or self.on not in path:
            return ""
        self._faulted += 1
        if self.fault.endswith("-once"):
            return self.fault.removesuffix("-once") if self._faulted == 1 else ""
        return self.fault

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over or the service stops. True if it stops."""
        return self._stopping.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "emulator"
    wbufsize = -1  # headers and body in one segment, or every answer waits 40 ms for a delayed acknowledgement
    service: ClassVar[Metadata]

    def log_message(self, format: str, *args: Any) -> None:
        if os.environ.get("PARBAKE_TEST_VERBOSE"):
            super().log_message(format, *args)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # clients close connections on purpose
            super().handle()

    def do_GET(self) -> None:
        self._respond()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _respond(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        url = urlsplit(self.path)
        port = self.client_address[1] if isinstance(self.client_address, tuple) else 0
        request = Request(
            self.command,
            unquote(url.path),
            {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()},
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length).decode("utf-8", "replace"),
            port,
        )
        answer = self.service.answer(request)
        fault = self.service.fault_for(request.path)
        if fault:
            _FAULTS[fault](self, answer)
        else:
            if answer.delay_seconds and self.service.wait(answer.delay_seconds):
                return
            self.send(answer.status, answer.body, answer.headers)

    def send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)
        self.wfile.flush()


def _hang(handler: _Handler, answer: Answer) -> None:
    handler.service.wait(60)
    handler.close_connection = True


def _reset(handler: _Handler, answer: Answer) -> None:
    linger_none = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
    handler.close_connection = True
    handler.connection.close()


def _truncated(handler: _Handler, answer: Answer) -> None:
    handler.send(200, answer.body[: len(answer.body) // 2], answer.headers, len(answer.body) + 10)
    handler.close_connection = True


def _drip(handler: _Handler, answer: Answer) -> None:
    """Send headers and body one byte at a time, so that no read waits long."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer.body)}\r\n\r\n".encode()
    for byte in head + answer.body:
        if handler.service.wait(0.1):
            break
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
    handler.close_connection = True


_FAULTS: dict[str, Callable[[_Handler, Answer], None]] = {
    "hang": _hang,
    "500": lambda handler, answer: handler.send(500, b"internal error", {}),
    "429": lambda handler, answer: handler.send(429, b"slow down", {"Retry-After": "0"}),
    "404": lambda handler, answer: handler.send(404, b"not found", {}),
    "reset": _reset,
    "truncated": _truncated,
    "not-utf8": lambda handler, answer: handler.send(200, b"\xff\xfe" + answer.body, answer.headers),
    "not-json": lambda handler, answer: handler.send(200, b'{"cut": "of', answer.headers),
    "empty": lambda handler, answer: handler.send(200, b"", answer.headers),
    "large": lambda handler, answer: handler.send(200, b"x" * 5_000_000, answer.headers),
    "redirect": lambda handler, answer: handler.send(302, b"", {"Location": "/redirected"}),
    "drip": _drip,
    "page": lambda handler, answer: handler.send(200, b"<!DOCTYPE html><HTML>log in</HTML>", {}),
}


class _TcpServer(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer's method looks up the host's name.
        socketserver.TCPServer.server_bind(self)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _server(service: Metadata) -> Any:
    handler = type("Handler", (_Handler,), {"service": service})
    if service.unix_socket:
        return _UnixServer(service.unix_socket, handler)
    kind = type("Server", (_TcpServer,), {"address_family": socket.AF_INET6 if ":" in service.host else socket.AF_INET})
    return kind((service.host, service.port), handler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--platform", choices=sorted(PLATFORMS), required=True)
    parser.add_argument("--bind", default="127.0.0.1:8169", help="ADDRESS:PORT, an IPv6 one in brackets")
    parser.add_argument("--fault", choices=FAULTS, default="")
    parser.add_argument("--on", default="", help="only requests with this in their path have the fault")
    parser.add_argument("--steering", type=Path, help="a JSON file with options of the platform, read for each request")
    parser.add_argument("--userdata", type=Path, help="a file with the user-data")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the platform")
    arguments = parser.parse_args()
    host, _, port = arguments.bind.rpartition(":")
    options: dict[str, Any] = dict(text.split("=", 1) for text in arguments.set)
    if arguments.userdata:
        options["userdata"] = arguments.userdata.read_text("utf-8")
    service = Metadata(
        arguments.platform,
        arguments.fault,
        arguments.on,
        host=host.strip("[]"),
        port=int(port),
        options=options,
        steering=arguments.steering,
    )
    with service:
        print(f"{arguments.platform} at {service.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
