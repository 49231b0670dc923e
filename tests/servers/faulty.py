"""A TCP proxy on loopback that misbehaves on command, and can terminate TLS with any certificate."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.servers.processes import free_port

MODES = ("pass", "refuse", "reset", "hang", "drip", "500")
Bind = Callable[[int], socket.socket]


def _loopback(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


class Faulty:
    """`with Faulty(port) as proxy: proxy.mode = "hang"`. A new mode applies to open connections, too.

    `bind` makes the listening socket for a port, if that is not on loopback.
    """

    def __init__(self, server_port: int, certificate: tuple[Path, Path] | None = None, bind: Bind = _loopback) -> None:
        self._bind = bind
        self.server_port = server_port
        self.certificate = certificate
        self.accepted = 0
        self.peak = 0
        """the largest number of connections that the client had open at one time"""
        self._mode = "pass"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._clients: set[socket.socket] = set()
        self._cuts = 0
        self._listener: socket.socket | None = None
        self.port = free_port()
        self._listen(self.port)

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in MODES
        previous, self._mode = self._mode, mode
        if mode == "refuse":
            self._unlisten()
        elif previous == "refuse":
            self._listen(self.port)
        if mode in ("refuse", "500") or previous in ("hang", "drip"):
            self.cut()

    def cut(self) -> None:
        """Reset every connection, also those that were accepted and are not connected to the server yet."""
        with self._lock:
            self._cuts += 1
            for connection in self._open:
                _shut(connection)

    def _listen(self, port: int) -> None:
        listener = self._bind(port)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _unlisten(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(client, self._cuts), daemon=True).start()

    def _serve(self, client: socket.socket, cuts: int) -> None:
        """Serve one connection. `cuts` is the number of calls of `cut` before it was accepted."""
        try:
            if self.certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self.certificate)
                client.settimeout(10)
                client = context.wrap_socket(client, server_side=True)
            client.settimeout(None)
            if self._mode == "500":
                _answer_500(client)
                return
            server = socket.create_connection(("127.0.0.1", self.server_port), 5)
            server.settimeout(None)
        except OSError:
            _reset(client)
            return
        with self._lock:
            cut = cuts != self._cuts
            self._open |= {client, server}
            # A connection that the client has closed may still be in the set: its thread has not run since.
            self._clients = {one for one in self._clients if not _has_ended(one)} | {client}
            self.peak = max(self.peak, len(self._clients))
        try:
            if not cut:
                self._relay(client, server)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {client, server}
                self._clients.discard(client)
            _reset(client)
            _reset(server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        """Relay until one end closes. One thread serves both directions, because a TLS layer is not made for two."""
        with selectors.DefaultSelector() as waiting:
            waiting.register(client, selectors.EVENT_READ, server)
            waiting.register(server, selectors.EVENT_READ, client)
            while True:
                ready = [(key.fileobj, key.data) for key, _ in waiting.select(0 if _buffered(client) else None)]
                for source, target in ready or [(client, server)]:
                    assert isinstance(source, socket.socket)
                    source.settimeout(0.5)  # the bytes may have been for the TLS layer only
                    with contextlib.suppress(TimeoutError):
                        chunk = source.recv(65536)
                        target.settimeout(None)
                        if not chunk or not self._passed(chunk, target, target is client):
                            return

    def _passed(self, chunk: bytes, target: socket.socket, answers: bool) -> bool:
        """Pass a chunk on as the mode says. Return whether the connection goes on."""
        while self._mode == "hang":
            time.sleep(0.02)
        if answers and self._mode == "reset":
            target.sendall(chunk[: len(chunk) // 2])
            return False
        if answers and self._mode == "drip":
            for byte in chunk:
                target.sendall(bytes([byte]))
                time.sleep(1)
                if self._mode != "drip":
                    return False
            return True
        target.sendall(chunk)
        return True

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._mode = "pass"
        self._unlisten()
        self.cut()


def _answer_500(client: socket.socket) -> None:
    """Answer a request with 500, and read until the client closes: a close with unread bytes, such as a body that comes late,
    resets the connection, and the client may lose the answer."""
    client.settimeout(5)
    with client, contextlib.suppress(TimeoutError):
        client.recv(65536)
        client.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops")
        while client.recv(65536):
            pass


def _buffered(connection: socket.socket) -> int:
    """Return how many bytes the TLS layer has read and not given out. A selector does not see them."""
    return connection.pending() if isinstance(connection, ssl.SSLSocket) else 0


def _has_ended(connection: socket.socket) -> bool:
    """Return whether the peer has closed or reset a connection."""
    try:
        return socket.socket.recv(connection, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _shut(connection: socket.socket) -> None:
    """End another thread's use of a connection. That thread closes it: a TLS layer goes on using the number of a closed
    socket, which may belong to another one by then. SSLSocket.shutdown would remove the TLS layer during a read."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.setsockopt(connection, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _shut(connection)
    with contextlib.suppress(OSError):
        connection.close()


class Certificates:
    """A CA and its server certificates, made by openssl: `good` for 127.0.0.1 and localhost, `expired`, `elsewhere` (of
    another name), and `stranger` of another CA."""

    def __init__(self, directory: Path, also: str = "") -> None:
        """Make the certificates. `also` are further names of the good one, such as "DNS:store.test,IP:10.0.0.1"."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = self._authority("ca")
        self._authority("other")
        here = f"IP:127.0.0.1,DNS:localhost,{also}".rstrip(",")
        self.good = self._server("good", "ca", here, 2)
        self.expired = self._server("expired", "ca", here, -1)
        self.elsewhere = self._server("elsewhere", "ca", "DNS:elsewhere.example", 2)
        self.stranger = self._server("stranger", "other", here, 2)

    def _authority(self, name: str) -> Path:
        self._run(
            "req", "-x509", *_NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "3",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        return self._directory / f"{name}.pem"

    def _server(self, name: str, authority: str, names: str, days: int) -> tuple[Path, Path]:
        (self._directory / "names").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n")
        self._run("req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", "request", "-subj", f"/CN={name}")
        self._run(
            "x509", "-req", "-in", "request", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
            "-days", str(days), "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def _run(self, *argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=self._directory, check=True, capture_output=True, timeout=30)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
