"""A stop ends every request within two seconds, whatever the request waits for."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SourceUnreachable
from agent.net.http_client import Client, TlsOptions
from tests.servers.processes import wait_until
from tests.servers.scripted import Scripted, answer

PROMISED_SECONDS = 2.0
BUSY_SECONDS = 10.0
"""Grace for a busy machine. The time-outs of the requests are far longer."""
REQUEST_SECONDS = 60.0
SYN_SENT = "02"


class StopEvent(threading.Event):
    """The event of a daemon. `waited` is set once a request sleeps on it between two attempts."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.set()
        return super().wait(timeout)


class Request(threading.Thread):
    """A request in a separate thread; `outcome` is its reply or its error."""

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._run_request = run
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._run_request()
        except SourceUnreachable as error:
            self.outcome = error


@pytest.fixture
def stopping() -> StopEvent:
    return StopEvent()


@pytest.fixture
def client(stopping: StopEvent) -> Iterator[Client]:
    opened = Client(stopping=stopping, tls=TlsOptions(insecure=True))
    yield opened
    opened.close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    started = Scripted()
    yield started
    started.close()


def assert_stops(request: Request, stopping: StopEvent, url: str) -> None:
    """Set the event, and check that the request ends in time with the error for a stop."""
    begun = time.monotonic()
    stopping.set()
    request.join(REQUEST_SECONDS / 2)
    assert not request.is_alive()
    assert time.monotonic() - begun < PROMISED_SECONDS + BUSY_SECONDS
    assert isinstance(request.outcome, SourceUnreachable)
    assert str(request.outcome) == f"{url}: stopped"


def get(client: Client, url: str) -> Request:
    return Request(lambda: client.request("GET", url, timeout_seconds=REQUEST_SECONDS))


def silent_after(head: bytes, server: Scripted) -> threading.Event:
    """Let the server read a request, send `head` and then nothing. The event is set when it is silent."""
    silent = threading.Event()

    def play(connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(head)
        silent.set()
        server.stopping.wait(REQUEST_SECONDS)

    server.plays = [play]
    return silent


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX-Half:", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"HTTP/1.1 200 OK\r\n\r\n{"],
    ids=["no answer", "half of the headers", "half of a body", "a body without a length"],
)
def test_a_stop_ends_a_request_to_a_silent_server(head: bytes, server: Scripted, client: Client, stopping: StopEvent) -> None:
    """A store that accepts and does not answer does not hold up a stop, and half an answer is none."""
    silent = silent_after(head, server)
    request = get(client, server.url)
    assert silent.wait(10)
    assert_stops(request, stopping, server.url)


def test_a_stop_ends_a_request_to_a_server_that_drips(server: Scripted, client: Client, stopping: StopEvent) -> None:
    """A byte a second renews the time-out of the socket, and the request still ends."""
    dripping = threading.Event()

    def play(connection: socket.socket) -> None:
        server.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not server.stopping.wait(1.0):
            connection.sendall(b"x")
            dripping.set()

    server.plays = [play]
    request = get(client, server.url)
    assert dripping.wait(10)
    assert_stops(request, stopping, server.url)


def test_a_stop_ends_a_stream(server: Scripted, client: Client, stopping: StopEvent) -> None:
    """A watch that waits for the next event ends with an error, not as a watch without events."""
    silent = silent_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n", server)
    lines: list[bytes] = []

    def follow() -> None:
        lines.extend(client.stream("GET", server.url, timeout_seconds=REQUEST_SECONDS))

    request = Request(follow)
    assert silent.wait(10)
    wait_until(lambda: lines == [b"one"], 10, "the first line")
    assert_stops(request, stopping, server.url)


def test_a_stop_ends_a_tls_handshake(server: Scripted, client: Client, stopping: StopEvent) -> None:
    """A port that accepts and does not speak TLS does not hold up a stop."""
    handshake = threading.Event()

    def play(connection: socket.socket) -> None:
        connection.recv(65536)
        handshake.set()
        server.stopping.wait(REQUEST_SECONDS)

    server.plays = [play]
    url = f"https://127.0.0.1:{server.port}"
    request = get(client, url)
    assert handshake.wait(10)
    assert_stops(request, stopping, url)


def test_a_stop_ends_a_connection_attempt(client: Client, stopping: StopEvent) -> None:
    """A peer that drops packets, as a firewall does, does not hold up a stop."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(3):  # the queue of the listener is full: the kernel drops further connection requests
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        before = syn_sent(port)
        request = get(client, f"http://127.0.0.1:{port}")
        wait_until(lambda: syn_sent(port) > before, 10, "the connection attempt")
        assert_stops(request, stopping, f"http://127.0.0.1:{port}")


def syn_sent(port: int) -> int:
    """How many sockets of this machine try to connect to a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == SYN_SENT for row in rows)


def test_a_stop_ends_a_name_resolution(client: Client, stopping: StopEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library's resolver may hang for 30 seconds; its thread is left behind."""
    asked, released = threading.Event(), threading.Event()

    def hanging(*arguments: Any, **options: Any) -> list[Any]:
        asked.set()
        released.wait(REQUEST_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "no resolver")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    request = get(client, "http://store.test:8500")
    assert asked.wait(10)
    assert_stops(request, stopping, "http://store.test:8500")
    released.set()


def test_a_stop_ends_the_pause_between_two_attempts(server: Scripted, client: Client, stopping: StopEvent) -> None:
    """A Retry-After of 30 seconds does not hold up a stop, and no further attempt is sent."""
    server.plays = [server.answering(answer(b"", "503 Busy", "Retry-After: 30"))]
    request = get(client, server.url)
    assert stopping.waited.wait(10)
    assert_stops(request, stopping, server.url)
    assert len(server.requests) == 1


def test_a_request_after_the_stop_is_not_sent(server: Scripted, client: Client, stopping: StopEvent) -> None:
    """A client that stops opens no connection."""
    stopping.set()
    request = get(client, server.url)
    request.join(10)
    assert str(request.outcome) == f"{server.url}: stopped"
    assert server.connections == 0


def test_close_ends_a_name_resolution(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload closes the clients of the earlier settings, also those that wait for the resolver."""
    asked, released = threading.Event(), threading.Event()

    def hanging(*arguments: Any, **options: Any) -> list[Any]:
        asked.set()
        released.wait(REQUEST_SECONDS)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    request = get(client, "http://store.test:8500")
    assert asked.wait(10)
    client.close()
    request.join(10)
    assert str(request.outcome) == "http://store.test:8500: closed"
    released.set()


def test_a_request_that_was_aborted_leaves_the_thread_usable(server: Scripted, client: Client) -> None:
    """The abort of one request does not reach the next one of the same thread."""

    def play(connection: socket.socket) -> None:
        server.read_request(connection)
        server.stopping.wait(REQUEST_SECONDS)

    server.plays = [play, server.answering(answer(b"second"))]
    with pytest.raises(SourceUnreachable, match="no complete answer in time"):
        client.request("GET", server.url, timeout_seconds=0.3, attempts=1)
    assert client.request("GET", server.url, timeout_seconds=10).body == b"second"
