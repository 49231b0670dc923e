"""TCP and Unix connections that another thread can abort, and descriptions of network errors.

The time-out of a socket starts again with every byte, so a server that sends one byte a second never exceeds it. Only an
abort bounds the whole of an exchange. `close()` aborts as well, to end a long poll.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
Address = tuple[int, int, Any]
"""Address family, protocol number, and the address as socket.connect takes it."""


class AbortableSockets:
    """The open sockets of one client, by the thread that uses them.

    A thread that waits for the network (name resolution, connecting, a TLS handshake, an exchange) is attached with a
    function that ends this wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._aborts: dict[int, Callable[[], object]] = {}
        self._aborted: set[int] = set()
        self.closed = False

    def connect(self, host: str, port: int, timeout_seconds: float, unix_socket: Path | None = None) -> socket.socket:
        """Return a connected socket. The time-out covers name resolution and all addresses.

        Raises OSError: ConnectionAbortedError after `abort` or `close`.
        """
        if unix_socket is not None:
            return self._connect_to(socket.AF_UNIX, 0, str(unix_socket), timeout_seconds)
        deadline = time.monotonic() + timeout_seconds
        addresses = self._resolve(host, port, timeout_seconds)
        last_error: OSError = OSError(f"{host} has no address")
        for tried, (family, protocol, address) in enumerate(addresses):
            share = max(0.05, deadline - time.monotonic()) / (len(addresses) - tried)
            try:
                return self._connect_to(family, protocol, address, share)
            except OSError as error:
                last_error = error
        raise last_error

    def _resolve(self, host: str, port: int, timeout_seconds: float) -> list[Address]:
        wake = threading.Event()
        self._attach(wake.set)
        try:
            return resolve(host, port, timeout_seconds, wake)
        finally:
            self._pop()

    def _connect_to(self, family: int, protocol: int, address: Any, timeout_seconds: float) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM, protocol)
        try:
            if family != socket.AF_UNIX:
                for option in _KEEPALIVE:
                    connection.setsockopt(*option)
            connection.settimeout(timeout_seconds)
            with self.abortable(connection):
                connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def abortable(self, connection: socket.socket) -> Iterator[None]:
        """Attach a duplicate of a socket while it connects, or while a TLS handshake replaces the socket object."""
        duplicate = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            self._attach(lambda: _shut_down(duplicate))
            yield
        finally:
            self._pop()
            duplicate.close()

    def attach(self, connection: socket.socket) -> None:
        """Begin an exchange of this thread over a socket. Raises ConnectionAbortedError after `abort` or `close`."""
        reference = weakref.ref(connection)
        self._attach(lambda: _shut_down(reference()))

    def _attach(self, abort: Callable[[], object]) -> None:
        thread = threading.get_ident()
        with self._lock:
            if self.closed or thread in self._aborted:
                raise ConnectionAbortedError(errno.ECONNABORTED, "closed" if self.closed else "aborted")
            self._aborts[thread] = abort

    def _pop(self) -> None:
        with self._lock:
            self._aborts.pop(threading.get_ident(), None)

    def detach(self) -> None:
        """End the exchange of this thread, aborted or not."""
        with self._lock:
            self._aborts.pop(threading.get_ident(), None)
            self._aborted.discard(threading.get_ident())

    def abort(self, thread: int) -> None:
        """Fail every wait of a thread, now and until it calls `detach`. `thread` is from threading.get_ident()."""
        with self._lock:
            self._aborted.add(thread)
            if (abort := self._aborts.get(thread)) is not None:
                abort()

    def close(self) -> None:
        """Abort all exchanges, and refuse further ones."""
        with self._lock:
            self.closed = True
            for abort in self._aborts.values():
                abort()


def _shut_down(connection: socket.socket | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError):  # the peer has closed it already
            # Not SSLSocket.shutdown: it drops the TLS layer while another thread reads through it.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def resolve(host: str, port: int, timeout_seconds: float, wake: threading.Event) -> list[Address]:
    """Return the addresses of a host. The C library has no time-out, so a thread asks it. Setting `wake` ends the wait.

    Raises OSError: socket.gaierror if the name does not resolve, TimeoutError if the answer is late,
    ConnectionAbortedError if `wake` was set.
    """
    host = host.strip("[]")
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return _lookup(host, port, socket.AI_NUMERICHOST)
    answer: list[list[Address] | OSError] = []

    def ask() -> None:
        try:
            answer.append(_lookup(host, port, 0))
        except (OSError, UnicodeError) as error:
            answer.append(error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, "not a name"))
        wake.set()

    try:
        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    except RuntimeError:  # the limit on threads is reached
        raise OSError(errno.EAGAIN, f"no thread can be started to resolve {host}") from None
    woken = wake.wait(timeout_seconds)
    if not answer:
        if woken:
            raise ConnectionAbortedError(errno.ECONNABORTED, "aborted")
        raise TimeoutError(f"no answer from the resolver for {host}")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]


def _lookup(host: str, port: int, flags: int) -> list[Address]:
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, protocol, address) for family, _, protocol, _, address in rows]


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and the exceptions that it wraps, outermost first."""
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        cause = queue.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]


def describe_network_error(error: BaseException) -> tuple[str, str | None] | None:
    """Return a description of the most specific cause of an error, and a hint. None if no cause is a network error.

    The description never quotes an exception's own text, which may hold a URL or a value.
    """
    import ssl  # costs milliseconds, and not every instance has a network source

    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message or "it does not match"
            return f"its certificate is not trusted: {reason}", _certificate_hint(cause)
        if type(cause).__name__ == "CertificateError":  # urllib3's: botocore lets urllib3 compare the names
            return "its certificate is not trusted: hostname mismatch", _NAME_HINT
    for kind, text, hint in _DESCRIPTIONS:
        if any(isinstance(cause, kind) for cause in chain):
            return text, hint
    if any(isinstance(cause, ssl.SSLError) for cause in chain):
        return "the TLS handshake failed", None
    text = next((cause.strerror for cause in chain if isinstance(cause, OSError) and cause.strerror), "")
    return (text.lower(), None) if text else None


_DESCRIPTIONS: tuple[tuple[type[BaseException], str, str | None], ...] = (
    (socket.gaierror, "its name does not resolve", "check the name and the resolver, with `getent hosts NAME`"),
    (ConnectionRefusedError, "connection refused", None),
    (ConnectionResetError, "connection reset", None),
    (BrokenPipeError, "it closed the connection while being written to", None),
    (FileNotFoundError, "the socket does not exist", None),
    (TimeoutError, "no answer in time", None),
)


_NAME_HINT = "the certificate must name the address's host; set `server_name` if it has another name"


def _certificate_hint(error: Any) -> str:
    text = (error.verify_message or "").lower()
    if "expired" in text or "not yet valid" in text:
        return "renew the server's certificate, and check the clock of this instance"
    if "mismatch" in text or "doesn't match" in text or "not valid for" in text:
        return _NAME_HINT
    return "if the system does not trust the CA that signed it, set `ca_file` to that CA"
