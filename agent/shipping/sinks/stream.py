"""A connection to a receiver that gives no acknowledgement: TCP, TLS, or UDP.

TCP's own acknowledgement is waited for, and a reset after it is answered by sending again all that was sent since the
connection was last idle. That is weaker than an answer: what a receiver had read and not stored when it died, longer ago
than that, is lost, and what it had stored comes twice.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.credentials import locate
from agent.errors import SinkDenied, SinkUnavailable
from agent.httpclient import TlsOptions
from agent.schema import Seconds, setting
from agent.shipping import SinkContext, SinkTooLarge

_IDLE_SECONDS = 5.0
_KEPT_BYTES = 2 * 2**20
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions(TlsOptions):
    timeout: Seconds = setting("how long connecting, or sending one batch, may take", Seconds(15.0))


class Stream:
    """Connects at the first use, and again after an error. `scheme` is tcp, tls or udp. Raises SinkUnavailable."""

    def __init__(
        self, url: str, default_port: int, tls: TlsOptions, timeout_seconds: float, context: SinkContext
    ) -> None:
        parts = urlsplit(url)
        self.scheme = parts.scheme
        self._host, self._port = parts.hostname or "", parts.port or default_port
        self._tls, self._timeout_seconds, self._context = tls, timeout_seconds, context
        self._socket: socket.socket | None = None
        self._sent: deque[bytes] = deque()
        self._rested = 0.0
        tls.warn()

    def send(self, frames: Sequence[bytes]) -> None:
        """Return when the receiver's host has all of it, and has not hung up."""
        if self.scheme == "udp":
            self._send_datagrams(frames)
            return
        try:
            self._check_alive()
            if self._socket is None:
                self._connect()
                self._write(b"".join(self._sent))
            elif time.monotonic() - self._rested > _IDLE_SECONDS:
                self._sent.clear()
            body = b"".join(frames)
            self._write(body)
            self._remember(body)
            self._drain()
            self._check_alive()
            if self._socket is None:
                raise ConnectionResetError
        except OSError as error:
            self.close()
            reason = error.strerror or (str(error.args[0]) if error.args else "the connection was reset")
            raise SinkUnavailable(f"{self.scheme}://{self._host}:{self._port}: {reason}") from None
        self._rested = time.monotonic()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _remember(self, body: bytes) -> None:
        self._sent.append(body)
        while sum(map(len, self._sent)) > _KEPT_BYTES and len(self._sent) > 1:
            self._sent.popleft()

    def _seconds(self) -> float:
        return max(0.5, self._context.stop.within(self._timeout_seconds))

    def _connect(self) -> None:
        raw = socket.create_connection((self._host, self._port), self._seconds())
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.scheme == "tls":
            try:
                raw = self._wrapping().wrap_socket(raw, server_hostname=self._tls.server_name or self._host)
            except BaseException:
                raw.close()
                raise
        raw.settimeout(self._seconds())
        self._socket = raw

    def _wrapping(self) -> ssl.SSLContext:
        options = self._tls
        context = ssl.create_default_context(cafile=str(self._file(options.ca_file)) if options.ca_file else None)
        if options.cert_file:
            key = str(self._file(options.key_file)) if options.key_file else None
            context.load_cert_chain(str(self._file(options.cert_file)), key)
        if options.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _file(self, reference: str) -> Path:
        return locate(reference, self._context.places, SinkDenied)

    def _write(self, body: bytes) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._seconds())
        self._socket.sendall(body)

    def _drain(self) -> None:
        """Wait until the kernel at the other end has acknowledged every byte."""
        assert self._socket is not None
        ends = time.monotonic() + self._seconds()
        while struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
            if time.monotonic() > ends:
                raise TimeoutError("the receiver does not read")
            time.sleep(_POLL_SECONDS)

    def _check_alive(self) -> None:
        """Notice a receiver that has hung up: writing to it would seem to work once more."""
        if self._socket is None:
            return
        self._socket.setblocking(False)
        try:
            ended = self._socket.recv(4096) == b""
        except (BlockingIOError, ssl.SSLWantReadError):
            ended = False
        except OSError:
            ended = True
        if ended:
            self.close()

    def _send_datagrams(self, frames: Sequence[bytes]) -> None:
        try:
            if self._socket is None:
                family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
                self._socket = socket.socket(family, kind, protocol)
                self._socket.settimeout(self._seconds())
                self._socket.connect(address)
            for frame in frames:
                self._socket.send(frame)
        except OSError as error:
            self.close()
            if error.errno == 90:  # EMSGSIZE
                raise SinkTooLarge(f"udp://{self._host}: an entry is larger than a datagram") from None
            raise SinkUnavailable(f"udp://{self._host}:{self._port}: {error.strerror or error}") from None


def check_stream_url(url: str, schemes: Sequence[str]) -> None:
    """For an options class: raises ValueError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url is not a URL: {error}") from None
    if parts.scheme not in schemes or not host or parts.path.strip("/") or "@" in parts.netloc:
        raise ValueError(f'url "{url}" must be {" or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)}')
