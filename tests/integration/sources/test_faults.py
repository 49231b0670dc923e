"""A faulty network before every backend: the right error within the time-out, and recovery without a restart."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import pytest

from agent.errors import SourceError, SourceInvalid, SourceUnreachable
from agent.model import Snapshot
from agent.sources import Source, Watchable
from tests.integration.sources.benches import Bench
from tests.servers.faulty import Certificates, Faulty

LAYERS = ("common", "env/dev", "instance/none")
SECONDS = 2.0


def needs(wanted: Callable[[type[Bench]], bool]) -> pytest.MarkDecorator:
    return pytest.mark.needs.with_args(wanted)


over_network = needs(lambda kind: kind.stop is not Bench.stop)


def fill(bench: Bench) -> None:
    bench.put("common", "db/password", "s3cret-of-the-store")
    bench.put("env/dev", "name", "dev")


def fetch_again(source: Source[object], seconds: float = 12.0) -> Snapshot:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return source.fetch(LAYERS)
        except SourceError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@over_network
@pytest.mark.parametrize("fault", ["refuse", "reset", "hang", "drip"])
def test_a_fault_is_an_error_in_time_and_passes_with_its_cause(bench: Bench, fault: str) -> None:
    """No partial config, no hang, no secret in the message; and the same object works when the fault is over."""
    fill(bench)
    bench.context_seconds = SECONDS
    assert bench.port is not None
    with Faulty(bench.port) as proxy:
        source = bench.open(proxy.port)
        good = fetch_again(source)
        proxy.mode = fault
        started = time.monotonic()
        with pytest.raises(SourceUnreachable) as caught:
            source.fetch(LAYERS)
        assert time.monotonic() - started < SECONDS + 1.0
        assert "s3cret" not in str(caught.value) + str(caught.value.hint)
        proxy.mode = "pass"
        assert fetch_again(source) == good
        source.close()


@over_network
def test_a_fault_at_the_first_fetch_is_survived_too(bench: Bench) -> None:
    """A boot before the network is up does not leave a source that never recovers."""
    fill(bench)
    bench.context_seconds = SECONDS
    assert bench.port is not None
    with Faulty(bench.port) as proxy:
        proxy.mode = "refuse"
        source = bench.open(proxy.port)
        with pytest.raises(SourceUnreachable):
            source.fetch(LAYERS)
        proxy.mode = "pass"
        assert fetch_again(source).layers[0].tree == {"db": {"password": "s3cret-of-the-store"}}
        source.close()


@needs(lambda kind: kind.http)
def test_errors_of_the_server_are_tried_again_and_then_told(bench: Bench) -> None:
    """500 from a load balancer makes the source unavailable, and its config not empty."""
    fill(bench)
    bench.context_seconds = SECONDS
    assert bench.port is not None
    with Faulty(bench.port) as proxy:
        source = bench.open(proxy.port)
        proxy.mode = "500"
        with pytest.raises(SourceUnreachable):
            source.fetch(LAYERS)
        assert proxy.accepted > 1
        proxy.mode = "pass"
        assert fetch_again(source).layers[1].tree == {"name": "dev"}
        source.close()


@needs(lambda kind: kind.tls)
@pytest.mark.parametrize("wrong", ["expired", "elsewhere", "stranger"])
def test_a_certificate_that_does_not_fit_is_no_server(bench: Bench, certificates: Certificates, wrong: str) -> None:
    """Expired, of another name, of another CA: nothing is sent; the right certificate works with the same object."""
    fill(bench)
    bench.context_seconds = SECONDS
    assert bench.port is not None
    with Faulty(bench.port, getattr(certificates, wrong)) as proxy:
        source = bench.open(proxy.port, "https", ca_file=str(certificates.ca))
        with pytest.raises(SourceUnreachable):
            source.fetch(LAYERS)
        proxy.certificate = certificates.good
        assert fetch_again(source).layers[1].tree == {"name": "dev"}
        source.close()


@needs(lambda kind: kind.tls)
def test_tls_can_expect_another_name_or_nothing(bench: Bench, certificates: Certificates) -> None:
    """`server_name` is the name that the certificate must have; `insecure` accepts any certificate."""
    fill(bench)
    assert bench.port is not None
    with Faulty(bench.port, certificates.elsewhere) as proxy:
        more: dict[str, object] = {}
        if "server_name" in dir(bench.open(proxy.port).options_class):
            more = {"ca_file": str(certificates.ca), "server_name": "elsewhere.example"}
            assert bench.open(proxy.port, "https", **more).fetch(LAYERS).layers[1].tree == {"name": "dev"}
            more = {"ca_file": str(certificates.ca), "server_name": "nowhere.example"}
            with pytest.raises(SourceUnreachable):
                bench.open(proxy.port, "https", **more).fetch(LAYERS)
        assert bench.open(proxy.port, "https", insecure=True).fetch(LAYERS).layers[1].tree == {"name": "dev"}


@needs(lambda kind: kind.watched and kind.stop is not Bench.stop)
def test_a_watch_that_is_cut_off_tells_and_works_again(bench: Bench) -> None:
    """A reset ends the watch with an error, or with an alarm; after that, changes are seen as before."""
    fill(bench)
    bench.context_seconds = 5.0
    assert bench.port is not None
    with Faulty(bench.port) as proxy:
        source = bench.open(proxy.port)
        assert isinstance(source, Watchable)
        seen = source.fetch(LAYERS)
        while source.watch(seen, 0.2):
            seen = source.fetch(LAYERS)
        cutter = threading.Timer(0.3, proxy.cut)
        cutter.start()
        started = time.monotonic()
        with contextlib.suppress(SourceUnreachable):
            source.watch(seen, 20)
        assert time.monotonic() - started < 5.0
        cutter.join()  # a watch may end early, and a later cut would hit what follows
        seen = fetch_again(source)
        bench.put("common", "name", "after")
        deadline = time.monotonic() + 10
        while fetch_again(source) == seen:
            assert time.monotonic() < deadline
        watch_until_changed(bench, source)
        source.close()


def watch_until_changed(bench: Bench, source: Source[object]) -> None:
    assert isinstance(source, Watchable)
    seen = fetch_again(source)
    while source.watch(seen, 0.3):
        seen = fetch_again(source)
    changer = threading.Timer(0.3, bench.put, ("common", "name", "last"))
    changer.start()
    started = time.monotonic()
    assert source.watch(seen, 10)
    assert time.monotonic() - started < 2.0
    changer.join()


@over_network
def test_something_else_on_the_port_is_no_store(bench: Bench) -> None:
    """A server that is not the store is an error of the source, and never an empty config."""
    from tests.servers.scripted import answer, scripted

    bench.context_seconds = SECONDS
    page = answer(b"<html>Please log in to the WiFi</html>", "200 OK", "Content-Type: text/html", "Connection: close")
    with scripted() as server:
        server.plays = [server.answering(page)]
        with pytest.raises((SourceInvalid, SourceUnreachable)):
            bench.open(server.port).fetch(LAYERS)
