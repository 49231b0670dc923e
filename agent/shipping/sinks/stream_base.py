"""A connection over TCP or TLS to a receiver that gives no acknowledgement.

The connection waits for TCP's own acknowledgement. After a reset it sends again all messages since it was last idle. That
is weaker than an answer of the receiver. If a receiver dies, older messages that it had read and not stored are lost, and
newer messages that it had stored arrive twice.

A receiver that finds a message too large hangs up (syslog-ng does), and hangs up again at every repeat. So if a receiver
hangs up repeatedly, the messages beyond the size that every receiver should accept are suspected and set aside.
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
from collections.abc import Mapping, Sequence

from agent.errors import SinkDenied, SinkUnavailable
from agent.net.sockets import AbortableSockets
from agent.net.tls import TlsOptions
from agent.shipping import ACCEPTED, SendResult, SinkContext
from agent.shipping.sinks.connection_base import Connection, Transport
from agent.shipping.sinks.datagrams import DatagramConnection

_IDLE_SECONDS = 5.0
_KEPT_BYTES = 2 * 2**20
_POLL_SECONDS = 0.002
_ALWAYS_ACCEPTED_BYTES = 8192
"""The size that every receiver should accept (RFC 5425, 4.3.1)."""
_HANG_UPS = 3
_HANG_UP_SECONDS = 0.25
"""How long a receiver may take to hang up on a message that it finds too large."""
_VERDICT_SECONDS = 1.0
"""In TLS 1.3 a client is connected before the server has checked its certificate."""


def open_connection(
    url: str, ports: Mapping[Transport, int], tls: TlsOptions, timeout_seconds: float, context: SinkContext
) -> StreamConnection | DatagramConnection:
    """Return a connection for the scheme of `url`. `ports`: the port of each scheme if `url` has none. Does no I/O."""
    transport = Transport(url.partition(":")[0])
    kind = DatagramConnection if transport == Transport.UDP else StreamConnection
    return kind(url, ports[transport], tls, timeout_seconds, context)


class StreamConnection(Connection):
    """Connects at the first batch, and again after an error."""

    def __init__(self, url: str, default_port: int, tls: TlsOptions, timeout_seconds: float, context: SinkContext) -> None:
        super().__init__(url, default_port, tls, timeout_seconds, context)
        self._socket: socket.socket | None = None
        self._unconfirmed: deque[bytes] = deque()
        """The messages since the connection was last idle, which a reset repeats."""
        self._unconfirmed_bytes = 0
        self._last_sent = self._connected_at = 0.0
        self._largest_sent = self._largest_accepted = _ALWAYS_ACCEPTED_BYTES
        self._hang_ups = self._discarded = 0

    def send(self, frames: Sequence[bytes]) -> SendResult:
        """Return when the receiver's host has all frames, and the receiver has not hung up.

        Frames at which it hangs up repeatedly are refused, and the others are to be sent again. Raises
        SinkUnavailable or SinkDenied.
        """
        connected = False
        largest = max(map(len, frames), default=0)
        with self._translated():
            try:
                self._check_idle_connection()
                is_new = self._socket is None
                if is_new:
                    self._connect()
                connected = True
                if is_new:
                    self._write(b"".join(self._unconfirmed))
                self._write(b"".join(frames))
                self._drain(_HANG_UP_SECONDS if largest > self._largest_accepted else 0.0)
                self._check_connected()
            except UnicodeError:
                self.close()
                raise
            except OSError as error:
                self.close()
                self._hang_ups += connected and not isinstance(error, TimeoutError)
                if self._hang_ups >= _HANG_UPS and (result := self._refuse_suspects(frames)):
                    return result
                raise
        self._keep(frames)
        self._largest_sent = max(self._largest_sent, largest)
        self._last_sent = time.monotonic()
        discarded, self._discarded = self._discarded, 0
        reason = "the receiver hung up on these large messages later"
        return SendResult(dropped=discarded, reason=reason) if discarded else ACCEPTED

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _check_idle_connection(self) -> None:
        """Notice that the receiver has hung up since the last batch: one more write would seem to succeed."""
        if self._socket is None:
            return
        try:
            self._check_connected()
        except OSError:
            self.close()
            self._hang_ups += 1
            if self._hang_ups >= _HANG_UPS:
                self._refuse_suspects(())
            return
        now = time.monotonic()
        self._largest_accepted = self._largest_sent
        if now - self._connected_at > _IDLE_SECONDS:
            self._hang_ups = 0
        if now - self._last_sent > _IDLE_SECONDS:
            self._unconfirmed.clear()
            self._unconfirmed_bytes = 0

    def _keep(self, frames: Sequence[bytes]) -> None:
        self._unconfirmed += frames
        self._unconfirmed_bytes += sum(map(len, frames))
        while self._unconfirmed_bytes > _KEPT_BYTES and len(self._unconfirmed) > len(frames):
            self._unconfirmed_bytes -= len(self._unconfirmed.popleft())

    def _refuse_suspects(self, frames: Sequence[bytes]) -> SendResult | None:
        """Refuse the largest of `frames`, and forget the largest unconfirmed ones: the receiver hangs up on one of them.

        None if all are of a size that every receiver should accept.
        """
        self._hang_ups = 0
        largest = max(map(len, (*self._unconfirmed, *frames)), default=0)
        bound = max(_ALWAYS_ACCEPTED_BYTES, largest * 3 // 4)
        if largest <= bound:
            return None
        kept = deque(frame for frame in self._unconfirmed if len(frame) <= bound)
        self._discarded += len(self._unconfirmed) - len(kept)
        self._unconfirmed, self._unconfirmed_bytes = kept, sum(map(len, kept))
        reason = f"{self._shown_url} hangs up on messages as large as this: raise its limit, or lower line_max"
        refused = [(number, f"{reason} ({len(frame)} bytes)") for number, frame in enumerate(frames) if len(frame) > bound]
        return SendResult(refused, [number for number, frame in enumerate(frames) if len(frame) <= bound])

    def _connect(self) -> None:
        is_tls = self.transport == Transport.TLS
        tls_context = self._tls.ssl_context(self._context.paths, SinkUnavailable, SinkDenied) if is_tls else None
        connected = AbortableSockets().connect(self._host, self._port, self._remaining_seconds())
        try:
            connected.settimeout(self._remaining_seconds())
            if tls_context is not None:
                connected = tls_context.wrap_socket(connected, server_hostname=self._tls.server_name or self._host)
                _await_verdict(connected)
        except BaseException:
            connected.close()
            raise
        self._socket = connected
        self._connected_at = time.monotonic()
        self._largest_sent = self._largest_accepted = _ALWAYS_ACCEPTED_BYTES

    @property
    def _open_socket(self) -> socket.socket:
        """The socket. Raises OSError if another thread has closed it because the shipper ends."""
        if (connected := self._socket) is None:
            raise ConnectionAbortedError(errno.ECONNABORTED, "closed")
        return connected

    def _write(self, body: bytes) -> None:
        connected = self._open_socket
        connected.settimeout(self._remaining_seconds())
        connected.sendall(body)

    def _drain(self, hang_up_seconds: float) -> None:
        """Wait until the other host's kernel has acknowledged every byte, then watch for a hang-up."""
        connected, ends = self._open_socket, time.monotonic() + self._remaining_seconds()
        while struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
            if time.monotonic() > ends:
                raise TimeoutError(errno.ETIMEDOUT, "the receiver does not read")
            self._watch(_POLL_SECONDS)
        self._watch(hang_up_seconds)

    def _watch(self, seconds: float) -> None:
        """Wait. Raises ConnectionResetError as soon as the receiver hangs up."""
        poll = select.poll()
        poll.register(self._open_socket, select.POLLRDHUP)
        if poll.poll(seconds * 1000):
            raise ConnectionResetError

    def _check_connected(self) -> None:
        """Raise OSError if the receiver has hung up. Bytes that it sends are read and ignored."""
        connected = self._open_socket
        connected.setblocking(False)
        _discard_input(connected)


def _await_verdict(connected: ssl.SSLSocket) -> None:
    """Raise ssl.SSLError if the server refuses the client's certificate. A server that accepts it may send nothing."""
    if connected.version() != "TLSv1.3":
        return
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    if poll.poll(_VERDICT_SECONDS * 1000):
        connected.setblocking(False)
        _discard_input(connected)


def _discard_input(connected: socket.socket) -> None:
    """Read and ignore what has arrived. Raises ConnectionResetError at the end of the stream."""
    with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
        if connected.recv(4096) == b"":
            raise ConnectionResetError
