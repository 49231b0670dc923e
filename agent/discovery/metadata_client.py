"""Requests to a metadata service: no proxy, no redirect, no .netrc, no cookies, and one deadline for all of them.

404 is an answer. 429, 5xx and broken connections are retried until the deadline.

`agent.net.http_client` is not used: requests would add headers and proxies, and its import takes longer than all of discovery.
This is one file, because the socket and the retries share the deadline and the stop event of the context.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from agent import __version__
from agent.discovery import Context, parsers
from agent.errors import DiscoveryError
from agent.model import Attempt
from agent.net.backoff import Backoff, retry_after_seconds

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_DELAY_SECONDS = 0.05
MAX_DELAY_SECONDS = 1.0
ADDRESS_SECONDS = 1.0
"""The time-out for one of several addresses, before the next is tried. All are link-local, so an answer comes quickly."""
MIN_TRY_SECONDS = 0.2
STOP_CHECK_SECONDS = 0.5
"""How often a waiting socket checks the stop event."""
MAX_BODY = 1024 * 1024
_CHUNK = 64 * 1024


class TooLong(Exception):
    """The body is longer than MAX_BODY."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response. `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class MetadataClient:
    """The client of one platform's metadata service."""

    def __init__(
        self,
        context: Context,
        *bases: str,
        headers: Mapping[str, str] | None = None,
        unix_socket: str = "",
        retried: tuple[int, ...] = (),
        privileged_port: bool = False,
    ) -> None:
        """Prepare requests to the first of `bases` that answers: an instance may have IPv6 alone.

        `headers` are sent with every request. `retried` lists more statuses, beyond 429 and 5xx, that mean "not yet" on
        this platform. `privileged_port` sends from a port below 1024, which needs root.
        """
        self._context = context
        self.headers = dict(headers or {})
        self._retried = retried
        addresses = (context.settings.imds_url,) if context.settings.imds_url else bases
        self._connections = [
            Connection(base, context.stopping, unix_socket=unix_socket, privileged_port=privileged_port) for base in addresses
        ]

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes | None:
        """Return the body, or None for 404 and 410. Raises DiscoveryError."""
        reply = self.request("GET", path, headers or {})
        if reply.status in (404, 410):
            return None
        if reply.status not in (200, 204):
            raise self._status_error("GET", path, reply)
        if b"<html" in reply.body[:256].lower():
            raise DiscoveryError(f"{self._url(path)} answered with a web page, so it is not a metadata service")
        return reply.body

    def token(self, path: str, headers: Mapping[str, str]) -> str | None:
        """Return the token that a PUT gives, or None if the service has no tokens (404, 405). Raises DiscoveryError.

        A time-out is an error and never None: a request without a token must go only to a service without tokens.
        """
        reply = self.request("PUT", path, {"Content-Length": "0", **headers})
        if reply.status in (404, 405):
            return None
        if reply.status != 200:
            raise self._status_error("PUT", path, reply)
        token = parsers.text(reply.body, self._url(path)).strip()
        if not token.isprintable() or not token.isascii() or not token:
            raise DiscoveryError(f"{self._url(path)} answered with an invalid token")
        return token

    def text(self, path: str) -> str | None:
        """Return a body as text without surrounding blanks, or None for 404 and an empty body."""
        body = self.get(path)
        return (parsers.text(body, self._url(path)).strip() or None) if body is not None else None

    def lines(self, path: str) -> list[str]:
        """Return the entries of a listing, [] for 404."""
        return [line.strip() for line in (self.text(path) or "").splitlines() if line.strip()]

    def json(self, path: str, headers: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """Return a JSON object, or None for 404 and an empty body. Raises DiscoveryError for any other body."""
        body = self.get(path, headers)
        return parsers.json_table(body, self._url(path)) if body else None

    def yaml(self, path: str) -> dict[str, Any] | None:
        """Return a YAML mapping, or None for 404 and an empty body. Raises DiscoveryError for any other body."""
        body = self.get(path)
        return parsers.yaml_table(body, self._url(path)) if body else None

    def request(self, method: str, path: str, headers: Mapping[str, str], *, long_poll: bool = False) -> Reply:
        """Return the first final answer. `long_poll` gives one try all of the time that is left.

        Raises DiscoveryError at the deadline, or when discovery stops, with the result of the last try.
        """
        backoff = Backoff(FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, low=0.5)
        start, reason = time.monotonic(), "no request was made"
        while not self._context.stopping.is_set() and time.monotonic() < self._context.deadline:
            connection = self._connections[backoff.failures % len(self._connections)]
            delay = backoff.next_seconds()
            try:
                reply = connection.send(method, path, {**self.headers, **headers}, self._try_deadline(long_poll))
            except TooLong:
                raise DiscoveryError(f"{self._url(path)} answered with more than {MAX_BODY} bytes") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = _failure_text(error)
                if backoff.failures < len(self._connections):
                    delay = 0.0  # the next address is tried at once
            else:
                if reply.status != 429 and reply.status < 500 and reply.status not in self._retried:
                    self._connections = [connection]
                    self._record(f"{method} {path}: {reply.status}", start)
                    return reply
                reason = f"it answered {reply.status}"
                delay = max(delay, retry_after_seconds(reply.headers.get("retry-after", "")) or 0.0)
            if time.monotonic() + delay >= self._context.deadline:
                break
            self._context.stopping.wait(delay)
        self._record(f"{method} {path}: {reason}", start)
        if self._context.stopping.is_set():
            raise DiscoveryError(f"{self._url(path)} gave no answer before discovery was stopped")
        raise DiscoveryError(f"{self._url(path)} gave no answer within the time of discovery: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    def _try_deadline(self, long_poll: bool) -> float:
        """Return the deadline of one try: half of the remaining time, so that a lost request leaves time for another."""
        now = time.monotonic()
        share = (self._context.deadline - now) / (1 if long_poll else 2)
        if len(self._connections) > 1:
            share = min(share, ADDRESS_SECONDS)
        return min(now + max(MIN_TRY_SECONDS, share), self._context.deadline)

    def _record(self, outcome: str, start: float) -> None:
        self._context.attempts.append(Attempt(self._context.label, outcome, round(time.monotonic() - start, 6)))

    def _url(self, path: str) -> str:
        return f"{self._connections[0].base}{path.partition('?')[0]}"

    def _status_error(self, method: str, path: str, reply: Reply) -> DiscoveryError:
        message = f"{self._url(path)} answered {method} with {reply.status}"
        if 300 <= reply.status < 400:
            return DiscoveryError(f"{message}, a redirect, which is not followed for metadata")
        if reply.status in (401, 403):
            return DiscoveryError(
                f"{message}: access denied",
                hint="the service may be disabled for this instance, or a proxy in between may change requests",
            )
        return DiscoveryError(message)


class Connection:
    """Requests to one address, over one connection for as long as the service keeps the connection open."""

    def __init__(self, base: str, stopping: threading.Event, *, unix_socket: str = "", privileged_port: bool = False) -> None:
        """`base` is http://ADDRESS[:PORT][/PATH]. For the other arguments see `MetadataClient`."""
        self.base = base.rstrip("/")
        url = urlsplit(self.base)
        self._host, self._port, self._path = url.hostname or "", url.port or 80, url.path
        self._authority = url.netloc.rpartition("@")[2] or "localhost"
        self._stopping = stopping
        self._unix_socket = unix_socket
        self._privileged_port = privileged_port
        self._http: http.client.HTTPConnection | None = None
        self._socket: _DeadlineSocket | None = None

    def send(self, method: str, path: str, headers: Mapping[str, str], deadline: float) -> Reply:
        """Send a request and return the whole answer. `deadline` is in seconds of `time.monotonic()`.

        Raises OSError, ValueError or http.client.HTTPException if there is no complete answer in time, and TooLong.
        """
        is_reused = self._http is not None
        try:
            try:
                return self._exchange(method, path, headers, deadline)
            except ConnectionError:
                if not is_reused:
                    raise
                self.close()  # the service closed an idle connection, which is no answer to this request
            return self._exchange(method, path, headers, deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. The next request opens another."""
        if self._http is not None:
            self._http.close()
        if self._socket is not None:
            self._socket.close()
        self._http = self._socket = None

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], deadline: float) -> Reply:
        if self._http is None or self._socket is None:
            self._socket = self._open(deadline)
            self._http = http.client.HTTPConnection(self._host or "localhost", self._port)
            self._http.sock = self._socket
        self._socket.deadline = deadline
        self._socket.settimeout(self._socket.remaining_seconds())
        all_headers = {"Host": self._authority, "User-Agent": f"parbake/{__version__}", **headers}
        self._http.request(method, self._path + path, headers=all_headers)
        response = self._http.getresponse()
        body = bytearray()
        while chunk := response.read(_CHUNK):
            body += chunk
            if len(body) > MAX_BODY:
                raise TooLong
        if response.length:
            # read(amount) does not report that the peer closed the connection early.
            raise http.client.IncompleteRead(bytes(body), response.length)
        reply = Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, bytes(body))
        if response.will_close:
            self.close()
        return reply

    def _open(self, deadline: float) -> _DeadlineSocket:
        family: int = socket.AF_UNIX
        address: str | tuple[Any, ...] = self._unix_socket
        if not self._unix_socket:
            flags = socket.AI_NUMERICHOST  # a name would need a resolver
            family, _, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags)[0]
        opened = _DeadlineSocket(family, socket.SOCK_STREAM)
        opened.deadline, opened.stopping = deadline, self._stopping
        try:
            if self._privileged_port:
                _bind_below_1024(opened)
            opened.connect_by_deadline(address)
        except BaseException:
            opened.close()
            raise
        return opened


class _DeadlineSocket(socket.socket):
    """A socket that connects and reads until `deadline` or `stopping`. A plain time-out begins again with each byte."""

    deadline: float
    stopping: threading.Event

    def remaining_seconds(self) -> float:
        """Return the seconds until the deadline. Raises TimeoutError at the deadline and when discovery stops."""
        seconds = self.deadline - time.monotonic()
        if seconds <= 0 or self.stopping.is_set():
            raise TimeoutError("timed out")
        return seconds

    def connect_by_deadline(self, address: str | tuple[Any, ...]) -> None:
        """Connect before the deadline. Raises OSError."""
        self.setblocking(False)
        code = self.connect_ex(address)
        if code == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(self, select.POLLOUT)
            while not poll.poll(min(self.remaining_seconds(), STOP_CHECK_SECONDS) * 1000):
                continue
            code = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:  # type: ignore[override]
        """Return the reader that http.client reads answers from."""
        return io.BufferedReader(_SocketReader(self))


class _SocketReader(io.RawIOBase):
    def __init__(self, source: _DeadlineSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while True:
            self._source.settimeout(min(self._source.remaining_seconds(), STOP_CHECK_SECONDS))
            try:
                return self._source.recv_into(buffer)
            except TimeoutError:
                continue  # the deadline decides


def _bind_below_1024(unbound: socket.socket) -> None:
    """Bind to a free port below 1024. Raises OSError if all are taken, and PermissionError without root."""
    first = 512 + os.getpid() % 256
    for port in [*range(first, 1024), *range(512, first)]:
        try:
            unbound.bind(("::" if unbound.family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - a source address
            return
        except PermissionError:
            raise
        except OSError:
            continue
    raise OSError("no source port below 1024 is free")


def _failure_text(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"the connection was lost, or the answer is not HTTP ({type(error).__name__})"
