"""The HTTP client: deadlines, sizes, retries, error families, and no secret in a message."""

from __future__ import annotations

import gzip
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable, SourceDenied, SourceInvalid, SourceUnreachable
from agent.net.http_client import Client, ErrorMapping, TlsOptions, check_url, json_body, shown
from agent.paths import Paths
from agent.secret import Secret
from tests.servers.processes import free_port
from tests.servers.scripted import Scripted, answer

PASSWORD = "hunter2-in-the-url"


@pytest.fixture
def server() -> Iterator[Scripted]:
    started = Scripted()
    yield started
    started.close()


@pytest.fixture
def client() -> Iterator[Client]:
    opened = Client()
    yield opened
    opened.close()


def drip(head: bytes) -> object:
    def play(wire: socket.socket) -> None:
        wire.recv(65536)
        for byte in head:
            wire.sendall(bytes([byte]))
            time.sleep(0.1)

    return play


@pytest.mark.parametrize("part", ["headers", "body", "body without a length"])
def test_a_server_that_drips_does_not_hold_a_request_past_its_deadline(server: Scripted, client: Client, part: str) -> None:
    """A byte every 100 ms renews every socket time-out. The request still ends by its deadline, and the part that arrived is
    no reply."""
    head = b"HTTP/1.1 200 OK\r\nX-Filler: " + b"a" * 200
    if part != "headers":
        length = b"Content-Length: 1000\r\n" if part == "body" else b""

        def play(wire: socket.socket) -> None:
            wire.recv(65536)
            wire.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
            drip(b"x" * 1000)(wire)  # type: ignore[operator]

        server.plays = [play]
    else:
        server.plays = [drip(head)]  # type: ignore[list-item]
    begun = time.monotonic()
    with pytest.raises(SourceUnreachable, match="in time"):
        client.request("GET", server.url, timeout_seconds=0.6)
    assert 0.5 < time.monotonic() - begun < 15.0


def test_close_ends_a_long_poll_in_another_thread(server: Scripted, client: Client) -> None:
    """A blocked long poll returns soon after close(), so that a stop does not wait for it."""

    waiting = threading.Event()

    def silent(wire: socket.socket) -> None:
        wire.recv(65536)
        waiting.set()
        server.stopping.wait(60)

    server.plays = [silent]
    failures: list[BaseException] = []

    def poll() -> None:
        try:
            client.request("GET", server.url, timeout_seconds=60)
        except SourceUnreachable as error:
            failures.append(error)

    thread = threading.Thread(target=poll)
    thread.start()
    assert waiting.wait(30)
    client.close()
    thread.join(30)
    assert not thread.is_alive()
    assert "closed" in str(failures[0])


def test_connections_are_reused(server: Scripted, client: Client) -> None:
    """Twenty requests of a client are one connection, so that a fleet does not fell its store."""
    server.plays = [server.answering(answer())]
    for _ in range(20):
        client.request("GET", server.url)
    assert server.connections == 1


def test_a_busy_server_is_retried_and_retry_after_is_honoured(server: Scripted, client: Client) -> None:
    """503 with Retry-After: 1 is retried, not sooner than a second later."""
    server.plays = [server.answering(answer(b"", "503 Busy", "Retry-After: 1"), answer(b"7"))]
    begun = time.monotonic()
    assert client.request("GET", server.url, timeout_seconds=30).body == b"7"
    assert time.monotonic() - begun >= 1.0


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(server: Scripted, client: Client) -> None:
    """The error is raised at once, with the delay that the server asks for."""
    server.plays = [server.answering(answer(b"", "429 Slow down", "Retry-After: 60"))]
    begun = time.monotonic()
    with pytest.raises(SourceUnreachable) as caught:
        client.request("GET", server.url, timeout_seconds=50)
    assert time.monotonic() - begun < 25
    assert caught.value.retry_after_seconds == 60


def test_a_denied_request_is_not_retried(server: Scripted, client: Client) -> None:
    """403 is one request, not three."""
    server.plays = [server.answering(answer(b"", "403 Forbidden"))]
    with pytest.raises(SourceDenied):
        client.request("GET", server.url)
    assert len(server.requests) == 1


def test_a_post_is_not_sent_twice_unless_asked(server: Scripted, client: Client) -> None:
    """A request that may not be repeated is sent once; one that may be repeated is retried."""
    server.plays = [server.answering(answer(b"", "500 Oops"))]
    with pytest.raises(SourceUnreachable):
        client.request("POST", server.url, body=b"x")
    assert len(server.requests) == 1
    with pytest.raises(SourceUnreachable):
        client.request("POST", server.url, body=b"x", attempts=2)
    assert len(server.requests) == 3


def test_errors_are_of_the_callers_family(server: Scripted) -> None:
    """A sink gets sink errors."""
    server.plays = [server.answering(answer(b"", "500 Oops"))]
    sink = Client(family=ErrorMapping(SinkUnavailable, SinkDenied, SinkRefused), attempts=1)
    with pytest.raises(SinkUnavailable):
        sink.request("GET", server.url)
    server.plays = [server.answering(answer(b"", "400 Bad"))]
    sink.close()


def test_no_message_holds_credentials(client: Client) -> None:
    """Neither the user information nor the query of a URL is in an error, although the text of the library has them."""
    port = free_port()
    url = f"http://user:{PASSWORD}@127.0.0.1:{port}/v1?token={PASSWORD}"
    with pytest.raises(SourceUnreachable) as caught:
        client.request("GET", url)
    assert PASSWORD not in str(caught.value) + repr(caught.value.__cause__) + str(caught.value.hint)
    assert shown(url) == f"http://127.0.0.1:{port}/v1"


def test_an_endless_answer_is_refused(server: Scripted, client: Client) -> None:
    """A body over the limit is an error, whether it announces its length or not."""
    server.plays = [server.answering(answer(b"x" * 2000))]
    with pytest.raises(SourceInvalid, match="more than 1000 bytes"):
        client.request("GET", server.url, max_body_bytes=1000)

    def endless(wire: socket.socket) -> None:
        wire.recv(65536)
        wire.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            wire.sendall(b"y" * 65536)

    server.plays = [endless]
    with pytest.raises(SourceInvalid, match="more than 100000 bytes"):
        client.request("GET", server.url, max_body_bytes=100_000)


def test_a_compressed_bomb_is_refused(server: Scripted, client: Client) -> None:
    """100 MB of zeros in 100 kB of gzip does not become 100 MB of memory."""
    bomb = gzip.compress(bytes(100_000_000))
    server.plays = [server.answering(answer(bomb, "200 OK", "Content-Encoding: gzip"))]
    with pytest.raises(SourceInvalid, match="more than 1000000 bytes"):
        client.request("GET", server.url, max_body_bytes=1_000_000)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (answer(b"<!DOCTYPE html><p>Log in", "200 OK", "Content-Type: text/html"), "web page"),
        (answer(b"  <html>", "200 OK", "Content-Type: application/json"), "web page"),
        (answer(b'{"a": "\xe9"}'), "not UTF-8"),
        (answer('{"a": 1}'.encode("utf-16")), "not UTF-8"),
        (answer(b'{"a": 1'), "invalid JSON: line 1"),
        (answer(b'{"a": 1, "a": 2}'), "twice"),
        (answer(b'{"a": NaN}'), "NaN"),
        (answer(b"[" * 100_000), "invalid JSON"),
    ],
)
def test_rubbish_is_no_json(server: Scripted, client: Client, reply: bytes, message: str) -> None:
    """An answer that is not whole JSON is refused with a message that names the URL and the problem."""

    def play(wire: socket.socket) -> None:
        server.read_request(wire)
        wire.sendall(reply)

    server.plays = [play]
    with pytest.raises(SourceInvalid, match=message) as caught:
        json_body(client.request("GET", server.url + "/v1"))
    assert f"{server.url}/v1" in str(caught.value)


def test_an_answer_that_breaks_off_is_no_answer(server: Scripted, client: Client) -> None:
    """Half of a body is an error, also if the half is valid JSON."""

    def play(wire: socket.socket) -> None:
        server.read_request(wire)
        wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{}")

    server.plays = [play]
    with pytest.raises(SourceUnreachable, match="was cut off"):
        client.request("GET", server.url + "/v1")
    assert server.connections == 3


def test_a_redirect_to_another_host_gets_no_credentials(server: Scripted) -> None:
    """A token goes to the configured host, and not to a host that this one redirects to."""
    other = Scripted()
    other.plays = [other.answering(answer(b"here"))]
    server.plays = [server.answering(answer(b"", "302 Found", f"Location: {other.url}/x"))]
    client = Client(headers=lambda: {"X-Vault-Token": Secret("s.1234")})
    assert client.request("GET", server.url).body == b"here"
    assert b"s.1234" in server.requests[0]
    assert b"s.1234" not in other.requests[0]
    client.close()
    other.close()


def test_a_direct_client_follows_no_redirect_and_uses_no_proxy(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to a metadata service use no proxy and follow no redirect."""
    proxy = Scripted()
    proxy.plays = [proxy.answering(answer(b"from the proxy"))]
    monkeypatch.setenv("http_proxy", proxy.url)
    server.plays = [server.answering(answer(b"direct"), answer(b"", "302 Found", "Location: /elsewhere"))]
    direct, proxied = Client(direct=True), Client()
    assert direct.request("GET", server.url).body == b"direct"
    assert direct.request("GET", server.url, expect=(302,)).status == 302
    assert proxied.request("GET", server.url).body == b"from the proxy"
    direct.close()
    proxied.close()
    proxy.close()


def test_netrc_is_left_alone(server: Scripted, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc of root does not add a password to a request."""
    (tmp_path / ".netrc").write_text(f"default login root password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    server.plays = [server.answering(answer())]
    client.request("GET", server.url)
    assert b"authorization" not in server.requests[0].lower()


def test_a_token_with_a_line_end_inside_is_refused_before_it_is_sent(server: Scripted) -> None:
    """A header cannot be smuggled in through a token file."""
    client = Client(headers=lambda: {"X-Token": Secret("a\r\nX-Other: b")})
    with pytest.raises(SourceDenied, match="X-Token"):
        client.request("GET", server.url)
    assert server.connections == 0


def test_a_request_body_can_be_compressed(server: Scripted, client: Client) -> None:
    """A compressed body has its Content-Encoding, and decompresses to the original."""
    server.plays = [server.answering(answer())]
    client.request("POST", server.url, body=b"line\n" * 100, gzip_body=True)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head.lower()
    assert gzip.decompress(body) == b"line\n" * 100


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    """An agent behind a socket needs no port."""
    path = tmp_path / "agent.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        wire, _ = listener.accept()
        wire.recv(65536)
        wire.sendall(answer(b"over the socket"))
        wire.close()

    threading.Thread(target=serve, daemon=True).start()
    client = Client(unix_socket=path)
    assert client.request("GET", "http://localhost/").body == b"over the socket"
    client.close()
    listener.close()


def test_a_stream_gives_lines_as_they_come_and_ends_quietly(server: Scripted, client: Client) -> None:
    """A watch sees an event while the answer is open, and silence until its time-out is no error."""

    def play(wire: socket.socket) -> None:
        server.read_request(wire)
        wire.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\none\ntw\r\n")
        time.sleep(0.1)
        wire.sendall(b"2\r\no\n\r\n")
        server.stopping.wait(60)

    server.plays = [play]
    begun = time.monotonic()
    assert list(client.stream("GET", server.url, timeout_seconds=2.5)) == [b"one", b"two"]
    assert time.monotonic() - begun < 30


def test_a_name_that_does_not_resolve_says_so(client: Client) -> None:
    """The message names the cause, not the exception of the library."""
    with pytest.raises(SourceUnreachable, match="does not resolve"):
        client.request("GET", "http://store.invalid/", timeout_seconds=30, attempts=1)


def test_insecure_warns(caplog: pytest.LogCaptureFixture) -> None:
    """insecure = true is not silent."""
    with caplog.at_level(logging.WARNING, logger="parbake"):
        Client(Paths(), tls=TlsOptions(insecure=True))
    assert "certificate is not checked" in caplog.text


@pytest.mark.parametrize("url", ["consul:8500", "ftp://x", "http://", "http://u:p@host", "http://h:99999"])
def test_a_url_that_cannot_be_used_is_a_setting_error(url: str) -> None:
    """Wrong schemes, no host, bad ports and credentials are found before anything is sent."""
    with pytest.raises(ValueError, match="address"):
        check_url(url, "address")


def test_the_client_costs_no_import_before_its_first_request() -> None:
    """agent.net.http_client at rest has not loaded requests, urllib3 or tenacity."""
    code = (
        "import sys, agent.net.http_client as h; h.Client(); "
        "print([m for m in ('requests', 'urllib3', 'tenacity') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_closed_port_is_reported_as_such(client: Client) -> None:
    """The most specific cause is reported, not an exception that wraps it: no answer can have broken off."""
    with pytest.raises(SourceUnreachable, match="connection refused"):
        client.request("GET", f"http://127.0.0.1:{free_port()}/", timeout_seconds=2)
