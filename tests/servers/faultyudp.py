"""A UDP relay on loopback before a DNS server, which misbehaves in the ways that datagrams can."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from tests.servers.processes import free_port

Bind = Callable[[int], socket.socket]


def _loopback(port: int) -> socket.socket:
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.bind(("127.0.0.1", port))
    return wire


class FaultyUdp:
    """The modes of `Faulty`: "refuse" closes the port, "500" answers SERVFAIL, and the others lose every answer."""

    def __init__(self, server_port: int, bind: Bind = _loopback) -> None:
        self.server_port = server_port
        self._bind = bind
        self._mode = "pass"
        self.port = free_port()
        self._wire = bind(self.port)
        self._listen()

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        previous, self._mode = self._mode, mode
        if mode == "refuse":
            self._close()
        elif previous == "refuse":
            self._wire = self._bind(self.port)
            self._listen()

    def cut(self) -> None:
        """There is no connection to cut."""

    def _listen(self) -> None:
        threading.Thread(target=self._relay, args=(self._wire,), daemon=True).start()

    def _relay(self, wire: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, client = wire.recvfrom(65536)
                if len(question) < 12:
                    return  # woken up to end: no header is so short
                if self._mode == "500":
                    # RFC 1035, 4.1.1: the header's third byte is QR|opcode|AA|TC|RD, the fourth ends in the RCODE
                    wire.sendto(question[:2] + bytes([question[2] | 0x80, 2]) + question[4:], client)
                elif self._mode == "pass" and (answer := self._asked(question)):
                    wire.sendto(answer, client)

    def _asked(self, question: bytes) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, contextlib.suppress(OSError):
            server.settimeout(2)
            server.connect(("127.0.0.1", self.server_port))
            server.send(question)
            return server.recv(65536)
        return b""

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits, though the socket has no peer
        self._wire.close()

    def __enter__(self) -> FaultyUdp:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
