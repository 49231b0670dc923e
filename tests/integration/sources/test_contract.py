"""The source contract, held by every backend against its own kind of store."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable

import pytest

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.model import Snapshot
from agent.settings import plugins
from agent.sources import BACKENDS, Source, Watchable
from tests.integration.sources.benches import AwsBench, Bench
from tests.servers.faulty import Faulty

LAYERS = ("common", "env/dev", "env/dev/web", "instance/none")
ODD_VALUES = {
    "quotes": 'it\'s "quoted" \\ $HOME `x` {{ x }}',
    "lines": "one\ntwo\n\nfour",
    "accents": "päss wörd ☂",
    "spaces": "  kept  ",
    "json": '{"not": "parsed"}',
    "number": "007",
}


def needs(wanted: Callable[[type[Bench]], bool]) -> pytest.MarkDecorator:
    return pytest.mark.needs.with_args(wanted)


def fill(bench: Bench) -> None:
    bench.put("common", "db/host", "db.example")
    bench.put("common", "db/port", "5432")
    bench.put("common", "name", "common")
    bench.put("env/dev", "name", "dev")
    bench.put("env/dev/web", "name", "web")


def test_layers_come_in_order_with_tables_and_the_absent_is_none(bench: Bench) -> None:
    """Every requested layer is in the answer, in order; a layer that the store does not have is None and no error."""
    fill(bench)
    layers = bench.open().fetch(LAYERS).layers
    assert [layer.name for layer in layers] == list(LAYERS)
    assert layers[0].tree == {"db": {"host": "db.example", "port": "5432"}, "name": "common"}
    assert layers[3].tree is None


def test_a_layer_inside_another_keeps_its_keys_to_itself(bench: Bench) -> None:
    """env/dev does not have the keys of env/dev/web as a table."""
    fill(bench)
    layers = bench.open().fetch(LAYERS).layers
    assert layers[1].tree == {"name": "dev"}
    assert layers[2].tree == {"name": "web"}


def test_odd_values_arrive_unchanged(bench: Bench) -> None:
    """Quotes, line ends, spaces, other scripts and digits arrive byte for byte."""
    for key, value in ODD_VALUES.items():
        bench.put("common", key, value)
    assert bench.open().fetch(["common"]).layers[0].tree == ODD_VALUES


@needs(lambda kind: bool(kind.odd_keys))
def test_odd_keys_arrive_unchanged(bench: Bench) -> None:
    """All characters that the store allows belong to the key, and are not a pattern, path or query."""
    for key in bench.odd_keys:
        bench.put("common", key, f"of {key}")
    tree = bench.open().fetch(["common"]).layers[0].tree
    assert tree is not None
    assert {key: tree.get(key) for key in bench.odd_keys} == {key: f"of {key}" for key in bench.odd_keys}


@needs(lambda kind: kind.flat)
def test_a_key_that_is_a_value_and_a_prefix_is_an_error_that_names_it(bench: Bench) -> None:
    """The backend does not guess which of the two is meant."""
    bench.put("common", "db", "text")
    bench.put("common", "db/host", "x")
    with pytest.raises(SourceInvalid, match=r"(?i)db"):
        bench.open().fetch(["common"])


def test_the_revision_follows_the_content(bench: Bench) -> None:
    """Two fetches of an unchanged store are equal; after a change the layer has another tree and another revision."""
    fill(bench)
    source = bench.open()
    first, second = source.fetch(LAYERS), source.fetch(LAYERS)
    assert first == second
    bench.put("env/dev", "name", "other")
    third = source.fetch(LAYERS)
    assert third.layers[1].tree == {"name": "other"}
    assert third.layers[1].revision != first.layers[1].revision
    assert third.revision != first.revision
    assert third.layers[2] == first.layers[2]


def test_a_layer_whose_last_key_went_is_empty_or_absent(bench: Bench) -> None:
    """The source returns the store's answer; whether it is accepted is decided elsewhere."""
    bench.put("common", "name", "x")
    source = bench.open()
    assert source.fetch(["common"]).layers[0].tree == {"name": "x"}
    bench.drop("common", "name")
    assert not source.fetch(["common"]).layers[0].tree


@needs(lambda kind: kind.deny is not Bench.deny)
def test_a_denied_source_reads_its_credential_again(bench: Bench) -> None:
    """A wrong credential is SourceDenied; the same object works once the file holds the right one."""
    fill(bench)
    bench.deny(True)
    source = bench.open()
    with pytest.raises(SourceDenied) as caught:
        source.fetch(LAYERS)
    assert "wrong" not in str(caught.value)
    bench.deny(False)
    assert source.fetch(LAYERS).layers[0].tree is not None


@needs(lambda kind: kind.watched)
def test_a_change_is_seen_in_under_a_second(bench: Bench) -> None:
    """The watch reports a changed key, a key in a layer that was absent, and a deletion."""
    fill(bench)
    source = bench.open()
    assert isinstance(source, Watchable)
    for change in (
        lambda: bench.put("common", "name", "changed"),
        lambda: bench.put("instance/none", "deep/key", "new"),
        lambda: bench.drop("instance/none", "deep/key"),
    ):
        seen = source.fetch(LAYERS)
        source.watch(seen, 0.05)  # a first call may return at once, because it cannot compare yet
        done: list[float] = []

        def act(change: Callable[[], None] = change, done: list[float] = done) -> None:
            done.append(time.monotonic())
            change()

        timer = threading.Timer(0.3, act)
        timer.start()
        deadline = time.monotonic() + 10
        while not source.watch(seen, 10) or source.fetch(LAYERS) == seen:
            assert time.monotonic() < deadline
        assert time.monotonic() - done[0] < 1.0
        timer.join()


@needs(lambda kind: kind.watched)
def test_a_change_before_the_watch_is_not_lost(bench: Bench) -> None:
    """After a change between fetch and watch, the watch returns at once."""
    fill(bench)
    source = bench.open()
    assert isinstance(source, Watchable)
    seen = source.fetch(LAYERS)
    bench.put("env/dev/web", "name", "changed")
    started = time.monotonic()
    assert source.watch(seen, 10)
    assert time.monotonic() - started < 1.0


@needs(lambda kind: kind.watched)
def test_a_quiet_watch_ends_at_its_time_out(bench: Bench) -> None:
    """Without a change the watch returns False, not much later than asked, and without a loop of requests."""
    fill(bench)
    source = bench.open()
    assert isinstance(source, Watchable)
    seen = source.fetch(LAYERS)
    while source.watch(seen, 0.05):
        seen = source.fetch(LAYERS)
    started = time.monotonic()
    assert not source.watch(seen, 1.0)
    assert 0.8 < time.monotonic() - started < 2.0


@needs(lambda kind: kind.watched and kind.precise)
def test_a_change_of_something_else_does_not_wake_the_watch(bench: Bench) -> None:
    """A change in another environment's keys does not wake the watch."""
    fill(bench)
    source = bench.open()
    assert isinstance(source, Watchable)
    seen = source.fetch(LAYERS)
    while source.watch(seen, 0.2):
        seen = source.fetch(LAYERS)
    threading.Timer(0.2, bench.put, ("env/prod", "name", "x")).start()
    assert not source.watch(seen, 1.0)


@needs(lambda kind: kind.watched)
def test_close_ends_a_watch_in_another_thread(bench: Bench) -> None:
    """A stop of the daemon does not wait for a watch."""
    fill(bench)
    source = bench.open()
    assert isinstance(source, Watchable)
    seen = source.fetch(LAYERS)
    while source.watch(seen, 0.2):
        seen = source.fetch(LAYERS)
    threading.Timer(0.3, source.close).start()
    started = time.monotonic()
    assert not source.watch(seen, 30)
    assert time.monotonic() - started < 3.0


@needs(lambda kind: kind.stop is not Bench.stop)
def test_an_unavailable_store_is_unreachable_and_used_again_when_it_is_back(bench: Bench) -> None:
    """After the server has ended a fetch fails within the time-out; after its restart the same object works."""
    fill(bench)
    bench.context_seconds = 3.0
    source = bench.open()
    before = patient_fetch(source)
    bench.stop()
    started = time.monotonic()
    with pytest.raises(SourceUnreachable):
        source.fetch(LAYERS)
    assert time.monotonic() - started < 4.0
    bench.start()
    if not bench.keeps:
        fill(bench)
    bench.context_seconds = 10.0
    after = patient_fetch(source)
    assert [layer.tree for layer in after.layers] == [layer.tree for layer in before.layers]


def patient_fetch(source: Source[object], seconds: float = 30.0) -> Snapshot:
    """Fetch from a server that has just started and may refuse for a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return source.fetch(LAYERS)
        except SourceUnreachable:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@needs(lambda kind: kind.stop is not Bench.stop)
def test_one_connection_serves_fetches_and_the_watch(bench: Bench) -> None:
    """Five thousand instances are five thousand connections, and not a connection for each key, layer or poll."""
    fill(bench)
    assert bench.port is not None
    with Faulty(bench.port) as proxy:
        source = bench.open(proxy.port)
        for _ in range(3):
            seen = source.fetch(LAYERS)
        if isinstance(source, Watchable):
            source.watch(seen, 0.1)
            source.watch(seen, 0.3)
        # A Redis connection that subscribes can do nothing else. moto ends every connection after its answer, and the
        # previous one may not be closed yet.
        assert proxy.peak <= (2 if bench.backend == "redis" or isinstance(bench, AwsBench) else 1)
        source.close()


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_backend_is_its_options_and_at_most_three_methods(backend: str) -> None:
    """The methods are fetch, close, and perhaps watch; the options are frozen, and each is documented."""
    kind = plugins.load(BACKENDS, backend, "backend")
    public = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert {"fetch", "close"} <= public <= {"fetch", "close", "watch"}
    parameters = kind.options_class.__dataclass_params__
    assert parameters.frozen
    assert all("doc" in field.metadata for field in kind.options_class.__dataclass_fields__.values())
