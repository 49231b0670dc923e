"""Connections that keep to a deadline: dialled within it, and cut from another thread when it passes; why there is none.

A time-out of a socket starts anew with every byte, so a server that drips one byte a second is never late. A cut is
what bounds the whole of an exchange; `close()` uses the same cut to end a long poll.
"""

from __future__ import annotations

import contextlib
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


class Wire:
    """The sockets of one client, and which thread uses which."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_use: dict[int, Callable[[], socket.socket | None]] = {}
        self.closed = False

    def dial(self, host: str, port: int, timeout_seconds: float, unix_socket: Path | None = None) -> socket.socket:
        """A connected socket, with name resolution and every address tried inside the time-out. Raises OSError."""
        if unix_socket is not None:
            return self._connect(socket.AF_UNIX, 0, str(unix_socket), timeout_seconds)
        deadline = time.monotonic() + timeout_seconds
        addresses = resolve(host, port, timeout_seconds)
        failure: OSError = OSError(f"{host} has no address")
        for tried, (family, protocol, address) in enumerate(addresses):
            share = max(0.05, deadline - time.monotonic()) / (len(addresses) - tried)
            try:
                return self._connect(family, protocol, address, share)
            except OSError as error:
                failure = error
        raise failure

    def _connect(self, family: int, protocol: int, address: Any, timeout_seconds: float) -> socket.socket:
        wire = socket.socket(family, socket.SOCK_STREAM, protocol)
        try:
            if family != socket.AF_UNIX:
                for option in _KEEPALIVE:
                    wire.setsockopt(*option)
            wire.settimeout(timeout_seconds)
            with self.cuttable(wire):
                wire.connect(address)
        except BaseException:
            wire.close()
            raise
        return wire

    @contextlib.contextmanager
    def cuttable(self, wire: socket.socket) -> Iterator[None]:
        """While a TLS handshake replaces the socket object, a duplicate of it is what can be cut."""
        duplicate = socket.socket(fileno=os.dup(wire.fileno()))
        try:
            self._use(lambda: duplicate)
            yield
        finally:
            self.rest()
            duplicate.close()

    def use(self, wire: socket.socket) -> None:
        """This thread's exchange now runs over `wire`."""
        self._use(weakref.ref(wire))

    def _use(self, find: Callable[[], socket.socket | None]) -> None:
        with self._lock:
            if self.closed:
                raise ConnectionAbortedError("closed")
            self._in_use[threading.get_ident()] = find

    def rest(self) -> None:
        """This thread's exchange is over."""
        with self._lock:
            self._in_use.pop(threading.get_ident(), None)

    def cut(self, thread: int) -> None:
        """End the exchange of a thread: what blocks in it returns at once with an error."""
        with self._lock:
            self._shut(self._in_use.get(thread, lambda: None)())

    def close(self) -> None:
        """End every exchange, and let none begin."""
        with self._lock:
            self.closed = True
            for find in self._in_use.values():
                self._shut(find())

    @staticmethod
    def _shut(wire: socket.socket | None) -> None:
        if wire is not None:
            with contextlib.suppress(OSError):  # the peer was faster
                # Not SSLSocket.shutdown: it forgets the TLS layer, and the thread that reads would see it half gone.
                socket.socket.shutdown(wire, socket.SHUT_RDWR)


def resolve(host: str, port: int, timeout_seconds: float) -> list[tuple[int, int, Any]]:
    """(family, protocol, address) of a host, within a time-out that the C library itself does not keep.

    Raises OSError: socket.gaierror where the name does not resolve, TimeoutError where the answer is late.
    """
    host = host.strip("[]")
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return _lookup(host, port, socket.AI_NUMERICHOST)
    answer: list[list[tuple[int, int, Any]] | OSError] = []

    def ask() -> None:
        try:
            answer.append(_lookup(host, port, 0))
        except (OSError, UnicodeError) as error:
            answer.append(error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, "not a name"))

    thread = threading.Thread(target=ask, name=f"resolve {host}", daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if not answer:
        raise TimeoutError(f"no answer from the resolver for {host}")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]


def _lookup(host: str, port: int, flags: int) -> list[tuple[int, int, Any]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, protocol, address) for family, _, protocol, _, address in found]


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and everything that it was made of, the nearest first: libraries wrap one another's."""
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        cause = queue.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]


def why(error: BaseException) -> tuple[str, str | None] | None:
    """What the network did, and a hint, by the plainest cause there is; None where no cause tells. Never an exception's own
    text, which may hold a URL or a value."""
    import ssl  # milliseconds that an instance without a network source does not pay

    found = list(causes(error))
    for cause in found:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message or 'it does not fit'}", _certificate_hint(cause)
        if type(cause).__name__ == "CertificateError":  # urllib3's, where botocore lets it compare the names
            return "its certificate is not trusted: hostname mismatch", _OTHER_NAME
    for kind, text, hint in _WHY:
        if any(isinstance(cause, kind) for cause in found):
            return text, hint
    if any(isinstance(cause, ssl.SSLError) for cause in found):
        return "the TLS handshake failed", None
    words = next((cause.strerror for cause in found if isinstance(cause, OSError) and cause.strerror), "")
    return (words.lower(), None) if words else None


_WHY: tuple[tuple[type[BaseException], str, str | None], ...] = (
    (socket.gaierror, "its name does not resolve", "check the name and the resolver, with `getent hosts NAME`"),
    (ConnectionRefusedError, "connection refused", None),
    (ConnectionResetError, "connection reset", None),
    (BrokenPipeError, "it closed the connection while being written to", None),
    (FileNotFoundError, "there is no such socket", None),
    (TimeoutError, "no answer in time", None),
)


_OTHER_NAME = "the address must be a name of the certificate; `server_name` names another"


def _certificate_hint(error: Any) -> str:
    text = (error.verify_message or "").lower()
    if "expired" in text or "not yet valid" in text:
        return "renew the server's certificate, and check the clock of this instance"
    if "mismatch" in text or "doesn't match" in text or "not valid for" in text:
        return _OTHER_NAME
    return "`ca_file` names the CA that signed it, where the system does not trust that one"
