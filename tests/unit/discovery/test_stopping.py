"""A stop ends every wait of discovery, however long its deadline is."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.discovery import Context
from agent.discovery.engine import discover, missing_facts_summary
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.precedence import FactMemory
from agent.discovery.watcher import Watcher
from agent.errors import DiscoveryError
from agent.model import Facts
from agent.paths import Paths
from tests.servers.metadata import Metadata
from tests.servers.processes import wait_until
from tests.servers.scripted import Scripted
from tests.unit.discovery.machines import attempts_text, machine, settings

LIMIT_SECONDS = 2.0 + 10.0
"""The promised time after a stop, and the extra time of a busy machine. The deadlines are a minute or more away."""
STOP_AFTER_SECONDS = 0.3
HERE = "tests.unit.discovery.test_stopping"


class Waits:
    """A third party's provider that waits on the context's event. `asked` is set once it does."""

    asked = threading.Event()

    def discover(self, context: Context) -> Mapping[str, Any]:
        context.partial["slot"] = "7"
        self.asked.set()
        context.stopping.wait(60)
        return {"slot": "7"}


class Answers:
    def discover(self, context: Context) -> Mapping[str, Any]:
        return {"role": "web"}


@contextlib.contextmanager
def stop_soon(when: Callable[[], bool] = lambda: True) -> Iterator[tuple[threading.Event, Callable[[], float]]]:
    """An event that is set a moment after `when` returns true, and the seconds since then."""
    stopping, stopped_at = threading.Event(), [0.0]

    def stop() -> None:
        wait_until(when, 30, "the moment of the stop")
        stopped_at[0] = time.monotonic()
        stopping.set()

    timer = threading.Timer(STOP_AFTER_SECONDS, stop)
    timer.start()
    try:
        yield stopping, lambda: time.monotonic() - stopped_at[0]
    finally:
        timer.cancel()


def test_a_stop_ends_discovery_with_the_facts_so_far(tmp_path: Path) -> None:
    """The service accepts and never answers, and the timeout is a minute: discovery returns, with the facts of the firmware."""
    with Metadata("digitalocean", "hang") as service, stop_soon(lambda: bool(service.seen)) as (stopping, seconds_since_stop):
        asked = settings(providers=("imds", "host"), imds_url=service.url, timeout=60.0)
        facts = discover(asked, machine(tmp_path, "digitalocean"), stopping=stopping)
        assert seconds_since_stop() < LIMIT_SECONDS
    assert dict(facts.values) == {"platform": "digitalocean", "instance_id": "2756294"}
    assert "did not return before discovery was stopped; gave platform" in attempts_text(facts)
    assert "host: failed: discovery was stopped before this provider was asked" in attempts_text(facts)
    assert "not known: region" in missing_facts_summary(facts)


def test_a_third_partys_provider_can_wait_on_the_stop(tmp_path: Path) -> None:
    """The context has the event, and facts that were known before the stop are kept."""
    with stop_soon(Waits.asked.is_set) as (stopping, seconds_since_stop):
        facts = discover(settings(providers=(f"{HERE}:Waits",), timeout=60.0), Paths(tmp_path), stopping=stopping)
        assert seconds_since_stop() < LIMIT_SECONDS
    assert facts.values["slot"] == "7"


def test_a_stopped_discovery_does_not_change_what_is_remembered(tmp_path: Path) -> None:
    """A provider that was not asked is no provider that has nothing to give: the default does not replace its last answer."""
    memory, stopping = FactMemory(), threading.Event()
    rules: dict[str, Any] = {"facts": {"site": "dev"}, "facts_from": {"site": ("fact:role",)}}
    asked = settings(providers=(f"{HERE}:Answers",), **rules)
    assert discover(asked, Paths(tmp_path), memory=memory, stopping=stopping).values["site"] == "web"
    stopping.set()
    for _ in range(2):
        assert discover(asked, Paths(tmp_path), memory=memory, stopping=stopping).values["site"] == "web"


def hang(connection: socket.socket) -> None:
    """Read the request and never answer."""
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            continue


def unavailable(connection: socket.socket) -> None:
    """Ask for half a minute of patience."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n")


def drip(connection: socket.socket) -> None:
    """Send one byte at a time."""
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize("play", [hang, unavailable, drip])
def test_a_stop_ends_a_request(play: Callable[[socket.socket], None], tmp_path: Path) -> None:
    """Also in the thread that waits for the answer, or for the next try."""
    server = Scripted(play)
    with stop_soon() as (stopping, seconds_since_stop):
        assert_request_ends(server.url, tmp_path, stopping)
        assert seconds_since_stop() < LIMIT_SECONDS


def test_a_stop_ends_a_request_that_does_not_connect(tmp_path: Path) -> None:
    """A full queue of connections leaves the client in the handshake."""
    with contextlib.ExitStack() as sockets, stop_soon() as (stopping, seconds_since_stop):
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        assert_request_ends(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path, stopping)
        assert seconds_since_stop() < LIMIT_SECONDS


def assert_request_ends(url: str, root: Path, stopping: threading.Event) -> None:
    context = Context(Paths(root), settings().discovery, time.monotonic() + 60, stopping=stopping)
    with MetadataClient(context, url) as client, pytest.raises(DiscoveryError, match="before discovery was stopped"):
        client.get("/x")


@pytest.mark.parametrize("platform", ["ec2", "azure", "gce", "digitalocean"])
def test_closing_the_watcher_ends_a_look_that_stalls(platform: str, tmp_path: Path) -> None:
    """On every platform, and not only if the service waits for a change."""
    facts = Facts({"platform": platform}, {"platform": f"imds:{platform}"})
    with Metadata(platform, "hang") as service:
        watcher = Watcher(settings(imds_url=service.url, timeout=60.0).discovery, Paths(tmp_path))
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.append(watcher.wait(facts, 300)), daemon=True)
        thread.start()
        wait_until(lambda: bool(service.seen), 30, "the first request")
        watcher.close()
        thread.join(LIMIT_SECONDS)
        assert results == [False]


def test_several_addresses_share_the_time_whatever_the_first_asks_for(tmp_path: Path) -> None:
    """An hour of patience that the first address asks for is longer than discovery: it ends at once, and does not sleep."""

    def busy(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n")

    server = Scripted(busy)
    context = Context(Paths(tmp_path), settings().discovery, time.monotonic() + 10)
    ended = threading.Event()

    def ask() -> None:
        with MetadataClient(context, server.url, server.url) as client, contextlib.suppress(DiscoveryError):
            client.get("/x")
        ended.set()

    threading.Thread(target=ask, daemon=True).start()
    assert ended.wait(30)
