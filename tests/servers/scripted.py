"""A TCP server on loopback whose connections each run a given function, for answers that no real server would give."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Play = Callable[[socket.socket], None]


class Scripted:
    """Connection n runs plays[n], and later connections run the last one. `requests` has the requests that were read."""

    def __init__(self, *plays: Play) -> None:
        self.plays = list(plays)
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                wire, _ = self._socket.accept()
            except OSError:
                return
            play = self.plays[min(self.connections, len(self.plays) - 1)]
            self.connections += 1
            self._open.append(wire)
            threading.Thread(target=self._run, args=(play, wire), daemon=True).start()

    def _run(self, play: Play, wire: socket.socket) -> None:
        with contextlib.suppress(OSError), wire:
            play(wire)

    def read_request(self, wire: socket.socket) -> bytes:
        """Read one request, headers and body. Return b"" at the end of the connection."""
        text = b""
        while b"\r\n\r\n" not in text:
            chunk = wire.recv(65536)
            if not chunk:
                return b""
            text += chunk
        head, _, body = text.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += wire.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]

    def answering(self, *answers: bytes) -> Play:
        """Return a play that gives the answers in order on one connection, and repeats the last one."""

        def play(wire: socket.socket) -> None:
            count = 0
            while self.read_request(wire):
                wire.sendall(answers[min(count, len(answers) - 1)])
                count += 1

        return play

    def forwarding(self, port: int) -> Play:
        """Return a play that forwards requests to a real server, so that they are counted."""

        def play(wire: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:

                def back() -> None:
                    with contextlib.suppress(OSError):
                        while chunk := server.recv(65536):
                            wire.sendall(chunk)
                        wire.shutdown(socket.SHUT_RDWR)

                threading.Thread(target=back, daemon=True).start()
                while request := self.read_request(wire):
                    server.sendall(request)

        return play

    def close(self) -> None:
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # a close alone would not end the accept of the other thread
        self._socket.close()
        for wire in self._open:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def scripted(*plays: Play) -> Iterator[Scripted]:
    """Run a server, and stop it at the end."""
    server = Scripted(*plays)
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes = b"{}", status: str = "200 OK", *headers: str) -> bytes:
    """Return a whole HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
