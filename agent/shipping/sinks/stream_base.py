"""A connection to a receiver that gives no acknowledgement: TCP, TLS, or UDP.

TCP's own acknowledgement is waited for, and a reset after it is answered by sending again all that was sent since the
connection was last idle. That is weaker than an answer: what a receiver had read and not stored when it died, longer ago
than that, is lost, and what it had stored comes twice.

A receiver says that a message is too large for it by hanging up (syslog-ng does), and says it again to every repeat. So
messages beyond what each receiver should take are suspected when it hangs up again and again, and set aside.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent.errors import SinkDenied, SinkUnavailable
from agent.net.sockets import AbortableSockets, describe_network_error
from agent.net.tls import TlsOptions
from agent.settings.schema import Seconds, setting
from agent.shipping import ACCEPTED, SendResult, SinkContext

_IDLE_SECONDS = 5.0
_KEPT_BYTES = 2 * 2**20
_POLL_SECONDS = 0.002
_SURE_BYTES = 8192
"""RFC 5425, 4.3.1: what every receiver should take."""
_HANG_UPS = 3
_DOUBT_SECONDS = 0.25
"""How long a receiver may take to hang up on a message that it finds too large."""
_VERDICT_SECONDS = 1.0
"""In TLS 1.3 a client is connected before the server has looked at its certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions(TlsOptions):
    timeout: Seconds = setting("how long connecting, or sending one batch, may take", Seconds(15.0))


class Stream:
    """Connects at the first use, and again after an error. `scheme` is tcp, tls or udp."""

    def __init__(self, url: str, default_port: int, tls: TlsOptions, timeout_seconds: float, context: SinkContext) -> None:
        parts = urlsplit(url)
        self.scheme = parts.scheme
        self._host, self._port = parts.hostname or "", parts.port or default_port
        self._shown = f"{parts.scheme}://{parts.netloc}"
        self._tls, self._timeout_seconds, self._context = tls, timeout_seconds, context
        self._socket: socket.socket | None = None
        self._sent: deque[bytes] = deque()
        self._sent_bytes = 0
        self._rested = self._connected = 0.0
        self._largest = self._proven = _SURE_BYTES
        self._hang_ups = self._given_up = 0
        tls.warn()

    def send(self, frames: Sequence[bytes]) -> SendResult:
        """Return when the receiver's host has all of it, and has not hung up. Frames that it hangs up on again and again
        are refused, the others to be sent again. Raises SinkUnavailable, SinkDenied."""
        if self.scheme == "udp":
            return self._send_datagrams(frames)
        connected = False
        try:
            self._look_after_rest()
            new = self._socket is None
            if new:
                self._connect()
            connected = True
            if new:
                self._write(b"".join(self._sent))
            largest = max(map(len, frames), default=0)
            self._write(b"".join(frames))
            self._drain(_DOUBT_SECONDS if largest > self._proven else 0.0)
            self._look_alive()
        except UnicodeError:
            self.close()
            raise self._misnamed() from None
        except OSError as error:
            self.close()
            self._hang_ups += connected and not isinstance(error, TimeoutError)
            if self._hang_ups >= _HANG_UPS and (refused := self._without_suspects(frames)):
                return refused
            text, hint = _meaning(error)
            raise SinkUnavailable(f"{self._shown}: {text}", hint=hint) from None
        self._remember(frames)
        self._largest = max(self._largest, largest)
        self._rested = time.monotonic()
        given_up, self._given_up = self._given_up, 0
        return SendResult(dropped=given_up, why="the receiver hung up on these large messages later") if given_up else ACCEPTED

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _look_after_rest(self) -> None:
        """Notice a receiver that has hung up since the last batch: writing to it would seem to work once more."""
        if self._socket is None:
            return
        try:
            self._look_alive()
        except OSError:
            self.close()
            self._hang_ups += 1
            if self._hang_ups >= _HANG_UPS:
                self._without_suspects(())
            return
        now = time.monotonic()
        self._proven = self._largest
        if now - self._connected > _IDLE_SECONDS:
            self._hang_ups = 0
        if now - self._rested > _IDLE_SECONDS:
            self._sent.clear()
            self._sent_bytes = 0

    def _remember(self, frames: Sequence[bytes]) -> None:
        self._sent += frames
        self._sent_bytes += sum(map(len, frames))
        while self._sent_bytes > _KEPT_BYTES and len(self._sent) > len(frames):
            self._sent_bytes -= len(self._sent.popleft())

    def _without_suspects(self, frames: Sequence[bytes]) -> SendResult | None:
        """Leave out the largest of `frames` and of what was sent before: one of them makes the receiver hang up. None where
        there is none that a receiver need not take."""
        self._hang_ups = 0
        largest = max(map(len, (*self._sent, *frames)), default=0)
        bound = max(_SURE_BYTES, largest * 3 // 4)
        if largest <= bound:
            return None
        kept = deque(frame for frame in self._sent if len(frame) <= bound)
        self._given_up += len(self._sent) - len(kept)
        self._sent, self._sent_bytes = kept, sum(map(len, kept))
        told = f"{self._shown} hangs up on messages as large as this: raise its limit, or lower line_max"
        refused = [(number, f"{told} ({len(frame)} bytes)") for number, frame in enumerate(frames) if len(frame) > bound]
        return SendResult(refused, [number for number, frame in enumerate(frames) if len(frame) <= bound])

    def _misnamed(self) -> SinkDenied:
        option = "server_name" if self._tls.server_name else "url"
        return SinkDenied(f"{self._shown}: {option} holds a name that is none of a host's", hint=f"mend {option} of the sink")

    def _seconds(self) -> float:
        return max(0.5, self._context.stop.within(self._timeout_seconds))

    def _connect(self) -> None:
        context = self._tls.ssl_context(self._context.paths, SinkUnavailable, SinkDenied) if self.scheme == "tls" else None
        made = AbortableSockets().connect(self._host, self._port, self._seconds())
        try:
            made.settimeout(self._seconds())
            if context is not None:
                made = context.wrap_socket(made, server_hostname=self._tls.server_name or self._host)
                _await_verdict(made)
        except BaseException:
            made.close()
            raise
        self._socket = made
        self._connected = time.monotonic()
        self._largest = self._proven = _SURE_BYTES

    @property
    def _open(self) -> socket.socket:
        """The connection. Raises OSError where another thread has closed it: the shipper ends."""
        if (wire := self._socket) is None:
            raise ConnectionAbortedError(errno.ECONNABORTED, "closed")
        return wire

    def _write(self, body: bytes) -> None:
        wire = self._open
        wire.settimeout(self._seconds())
        wire.sendall(body)

    def _drain(self, doubt_seconds: float) -> None:
        """Wait until the kernel at the other end has acknowledged every byte, and in doubt a moment longer."""
        wire, ends = self._open, time.monotonic() + self._seconds()
        while struct.unpack("i", fcntl.ioctl(wire, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
            if time.monotonic() > ends:
                raise TimeoutError(errno.ETIMEDOUT, "the receiver does not read")
            self._watch(_POLL_SECONDS)
        self._watch(doubt_seconds)

    def _watch(self, seconds: float) -> None:
        """Wait, and raise ConnectionResetError as soon as the receiver hangs up."""
        poll = select.poll()
        poll.register(self._open, select.POLLRDHUP)
        if poll.poll(seconds * 1000):
            raise ConnectionResetError

    def _look_alive(self) -> None:
        """Raises OSError where the receiver has hung up. What it says is read and of no interest."""
        wire = self._open
        wire.setblocking(False)
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            if wire.recv(4096) == b"":
                raise ConnectionResetError

    def _send_datagrams(self, frames: Sequence[bytes]) -> SendResult:
        refused = []
        try:
            if self._socket is None:
                family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
                self._socket = socket.socket(family, kind, protocol)
                self._socket.settimeout(self._seconds())
                self._socket.connect(address)
            for number, frame in enumerate(frames):
                try:
                    self._socket.send(frame)
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:
                        raise
                    refused.append((number, f"{len(frame)} bytes are more than a datagram holds"))
        except UnicodeError:
            self.close()
            raise self._misnamed() from None
        except OSError as error:
            self.close()
            text, hint = _meaning(error)
            raise SinkUnavailable(f"{self._shown}: {text}", hint=hint) from None
        return SendResult(refused)


def _await_verdict(wire: ssl.SSLSocket) -> None:
    """Raises ssl.SSLError where the server refuses our certificate. It may say nothing where it does not."""
    if wire.version() != "TLSv1.3":
        return
    poll = select.poll()
    poll.register(wire, select.POLLIN)
    if poll.poll(_VERDICT_SECONDS * 1000):
        wire.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            if wire.recv(4096) == b"":
                raise ConnectionResetError


def _meaning(error: OSError) -> tuple[str, str | None]:
    """What an error says to an operator, and a hint."""
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        alert = str(error.reason).rpartition("ALERT_")[2].lower().replace("_", " ")
        return f"it ends TLS: {alert}", "see its log, and whether cert_file and key_file are what it asks for"
    return describe_network_error(error) or (str(error.args[0]) if error.args else "it hung up", None)


def check_stream_url(url: str, schemes: Sequence[str]) -> None:
    """For an options class: raises ValueError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url is not a URL: {error}") from None
    if parts.scheme not in schemes or not host or parts.path.strip("/") or "@" in parts.netloc:
        raise ValueError(f'url "{url}" must be {" or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)}')
