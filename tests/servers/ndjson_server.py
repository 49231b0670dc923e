"""The process behind `Receiver`: a strict HTTP endpoint for newline-delimited JSON, steered by files.

Run as a script with `--directory`, it reads `control.json` anew for every request and appends to `lines.ndjson` (every
line of every accepted batch, as sent) and `requests.ndjson` (one object a request, refused ones with the reason).
"""

from __future__ import annotations

import argparse
import gzip
import ipaddress
import json
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: `mode` is answer, hang (no answer; the connection is closed when the mode changes) or disconnect (closed at once).
#: `status` and `retry_after_seconds` are the answer to a batch that passed the checks; `keep` says whether its lines
#: are stored (null: when the answer is a 2xx), so that an acknowledgement that got lost can be played.
DEFAULT_CONTROL: dict[str, Any] = {"mode": "answer", "status": 200, "keep": None, "retry_after_seconds": None}


class Refused(Exception):
    """A request that breaks the protocol. `status` is the status of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def checked_lines(body: bytes, max_line_bytes: int) -> list[bytes]:
    """The lines of an NDJSON body; raises Refused(400) unless each is one JSON object ended by a newline."""
    if not body.endswith(b"\n"):
        raise Refused(400, "the body is empty or its last line has no newline")
    lines = body[:-1].split(b"\n")
    for number, line in enumerate(lines, 1):
        if len(line) > max_line_bytes:
            raise Refused(400, f"line {number} has {len(line)} bytes, more than {max_line_bytes}")
        try:
            value = json.loads(line.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        except ValueError as error:
            raise Refused(400, f"line {number} is not JSON in UTF-8: {error}") from None
        if not isinstance(value, dict):
            raise Refused(400, f"line {number} is not a JSON object")
    return lines


class Endpoint(ThreadingHTTPServer):
    """The listening side, and what every request shares."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.directory: Path = options.directory
        self.writing = threading.Lock()
        self._drop_torn_line("lines.ndjson")
        super().__init__((options.address, options.port), Request)

    def control(self) -> dict[str, Any]:
        """Return the present orders of the test: `DEFAULT_CONTROL` with the changes of `control.json`."""
        try:
            steered: dict[str, Any] = json.loads((self.directory / "control.json").read_text())
        except FileNotFoundError:
            return DEFAULT_CONTROL
        return DEFAULT_CONTROL | steered

    def _drop_torn_line(self, name: str) -> None:
        # The process before this one may have been killed while it wrote; nothing of that batch was acknowledged.
        file = self.directory / name
        if file.exists():
            body = file.read_bytes()
            file.write_bytes(body[: body.rfind(b"\n") + 1])

    def append(self, name: str, text: bytes) -> None:
        with self.writing, (self.directory / name).open("ab") as file:
            file.write(text)


class Request(BaseHTTPRequestHandler):
    """One connection: each request is read whole, checked, recorded and answered as the control says."""

    protocol_version = "HTTP/1.1"
    server: Endpoint

    def __getattr__(self, name: str) -> Any:
        # Every method reaches the same checks: one that is not POST is recorded and gets its 405 from there.
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `requests.ndjson` is the log."""

    def _serve(self) -> None:
        control = self.server.control()
        record: dict[str, Any] = {"at": time.time(), "method": self.command, "path": self.path, "lines": 0}
        record["headers"] = {name.lower(): value for name, value in self.headers.items() if name != "Authorization"}
        try:
            body = self._body(record)
            lines = checked_lines(body, self.server.options.max_line_bytes)
        except Refused as refused:
            self._answer(refused.status, record | {"reason": str(refused)}, control)
            return
        answered = control["mode"] == "answer" and control["status"] < 300
        if answered if control["keep"] is None else control["keep"]:
            self.server.append("lines.ndjson", b"".join(line + b"\n" for line in lines))
            record["lines"] = len(lines)
        self._answer(control["status"], record, control)

    def _body(self, record: dict[str, Any]) -> bytes:
        options = self.server.options
        length = self.headers.get("Content-Length")
        if length is None or not length.isdecimal():
            self.close_connection = True
            raise Refused(411, "no Content-Length")
        if int(length) > options.max_body_bytes:
            self.close_connection = True
            raise Refused(413, f"{length} bytes are more than {options.max_body_bytes}")
        raw = self.rfile.read(int(length))
        record["bytes"] = len(raw)
        if self.command != "POST":
            raise Refused(405, "only POST is served")
        if self.path != options.path:
            raise Refused(404, f"only {options.path} is served")
        if (kind := self.headers.get_content_type()) != options.content_type:
            raise Refused(400, f"Content-Type is {kind}, not {options.content_type}")
        return self._decoded(raw, self.headers.get("Content-Encoding", "identity"))

    def _decoded(self, raw: bytes, encoding: str) -> bytes:
        if encoding not in self.server.options.encodings.split(","):
            raise Refused(400, f"Content-Encoding is {encoding}, not one of {self.server.options.encodings}")
        if encoding == "identity":
            return raw
        try:
            return gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise Refused(400, f"the body is not gzip: {error}") from None

    def _answer(self, status: int, record: dict[str, Any], control: dict[str, Any]) -> None:
        mode = control["mode"]
        record["status"] = status if mode == "answer" else mode
        self.server.append("requests.ndjson", json.dumps(record).encode() + b"\n")
        if mode != "answer":
            self.close_connection = True
            while mode == "hang" and self.server.control()["mode"] == "hang":
                time.sleep(0.05)
            return
        text = str(record.get("reason", "ok")).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        if control["retry_after_seconds"] is not None:
            self.send_header("Retry-After", str(control["retry_after_seconds"]))
        self.end_headers()
        self.wfile.write(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--path", default="/logs")
    parser.add_argument("--content-type", default="application/x-ndjson")
    parser.add_argument("--encodings", default="gzip,identity")
    parser.add_argument("--max-body-bytes", type=int, default=16 << 20)
    parser.add_argument("--max-line-bytes", type=int, default=1 << 20)
    options = parser.parse_args()
    address = ipaddress.ip_address(options.address)
    if not (address.is_loopback or address.is_link_local):
        parser.error(f"{address} is neither loopback nor link-local: a test's receiver is not for the network")
    endpoint = Endpoint(options)
    ready = options.directory / "port"
    ready.with_suffix(".new").write_text(str(endpoint.server_address[1]))
    ready.with_suffix(".new").replace(ready)
    endpoint.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
