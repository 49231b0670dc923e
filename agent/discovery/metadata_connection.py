"""The HTTP of metadata services: no proxy, no redirect, no .netrc, no cookies, and a deadline that a drip cannot move.

Not `agent.net.http_client`, because everything that requests adds is what must not happen here, and its import alone takes
longer than all of discovery should.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agent import __version__

MAX_BODY = 1024 * 1024
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TooLong(Exception):
    """The body is longer than MAX_BODY."""


class _Timed(socket.socket):
    """A socket whose reads end at `deadline` (time.monotonic()): its own time-out would start anew at each byte."""

    deadline = 0.0

    def remaining(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def makefile(self, *_: Any, **__: Any) -> Any:
        return io.BufferedReader(_Reader(self))


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Timed) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wire.settimeout(self._wire.remaining())
        return self._wire.recv_into(buffer)


class Connection:
    """Requests to one address, over one connection for as long as the service keeps it open."""

    def __init__(self, base: str, *, unix_socket: str = "", privileged_port: bool = False) -> None:
        """`base` is http://HOST[:PORT][/PATH]; `privileged_port` sends from a port below 1024, as only root can."""
        self.base = base.rstrip("/")
        url = urlsplit(self.base)
        self._host, self._port, self._path = url.hostname or "", url.port or 80, url.path
        self._authority = url.netloc.rpartition("@")[2]
        self._unix_socket = unix_socket
        self._privileged_port = privileged_port
        self._http: http.client.HTTPConnection | None = None
        self._wire: _Timed | None = None

    def send(self, method: str, path: str, headers: Mapping[str, str], deadline: float) -> Reply:
        """Raises OSError or http.client.HTTPException where there is no whole answer by `deadline`, or TooLong."""
        fresh = self._http is None
        try:
            return self._exchange(method, path, headers, deadline)
        except ConnectionError:
            self.close()
            if fresh:
                raise
        except BaseException:
            self.close()
            raise
        # The service closed a connection that it had kept open: that says nothing about this request.
        try:
            return self._exchange(method, path, headers, deadline)
        except BaseException:
            self.close()
            raise

    def abort(self) -> None:
        """Make a `send` in another thread fail at once."""
        wire = self._wire
        if wire is not None:
            with contextlib.suppress(OSError):  # it is closed already
                wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
        if self._wire is not None:
            self._wire.close()
        self._http = self._wire = None

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], deadline: float) -> Reply:
        if self._http is None or self._wire is None:
            self._wire = self._dial(deadline)
            self._http = http.client.HTTPConnection(self._host or "localhost", self._port)
            self._http.sock = self._wire
        self._wire.deadline = deadline
        self._wire.settimeout(self._wire.remaining())
        sent = {"Host": self._authority or "localhost", "User-Agent": f"parbake/{__version__}", **headers}
        self._http.request(method, self._path + path, headers=sent)
        answer = self._http.getresponse()
        body = bytearray()
        while chunk := answer.read(_CHUNK):
            body += chunk
            if len(body) > MAX_BODY:
                raise TooLong
        if answer.length:
            # read(amount) returns what there is when the peer hangs up early, and says nothing of it.
            raise http.client.IncompleteRead(bytes(body), answer.length)
        reply = Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, bytes(body))
        if answer.will_close:
            self.close()
        return reply

    def _dial(self, deadline: float) -> _Timed:
        if self._unix_socket:
            family, address = socket.AF_UNIX, self._unix_socket
            return self._connect(family, address, deadline)
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return self._connect(found[0][0], found[0][4], deadline)

    def _connect(self, family: int, address: Any, deadline: float) -> _Timed:
        wire = _Timed(family, socket.SOCK_STREAM)
        wire.deadline = deadline
        try:
            if self._privileged_port:
                _bind_below_1024(wire, family)
            wire.settimeout(wire.remaining())
            wire.connect(address)
        except BaseException:
            wire.close()
            raise
        return wire


def _bind_below_1024(wire: socket.socket, family: int) -> None:
    """Raises OSError where none is free, or not root."""
    first = 512 + os.getpid() % 256
    for port in [*range(first, 1024), *range(512, first)]:
        try:
            wire.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - a source address
            return
        except PermissionError:
            raise
        except OSError:
            continue
    raise OSError("no source port below 1024 is free")
