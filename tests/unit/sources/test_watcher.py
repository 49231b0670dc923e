"""The thread that waits on a source: what it fetches while the source is unavailable, and when the loop converges."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, cast

import pytest

from agent.discovery.watcher import Watcher as PlatformWatcher
from agent.errors import SourceUnreachable
from agent.model import Facts, Layer, Snapshot
from agent.settings.models import Watch
from agent.settings.schema import Seconds
from agent.sources import containment
from agent.sources.watcher import FactsWatcher, Watcher

EMPTY = Snapshot((Layer("common", None),), "1")
GOOD = Snapshot((Layer("common", {"a": "b"}),), "2")


class Store:
    """A source that is unavailable until it has an answer."""

    options_class: ClassVar[type[object]] = object

    def __init__(self) -> None:
        self.answer: Snapshot | None = None
        self.asked: list[tuple[str, ...]] = []
        self.bug_of_fetch: BaseException | None = None

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        self.asked.append(tuple(layers))
        if self.bug_of_fetch is not None:
            raise self.bug_of_fetch
        if self.answer is None:
            raise SourceUnreachable("unavailable")
        return self.answer

    def close(self) -> None:
        pass


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def changed() -> threading.Event:
    return threading.Event()


@pytest.fixture
def watcher(store: Store, changed: threading.Event) -> Iterator[Watcher]:
    started = Watcher("site", store, 60.0, lambda name: changed.set())
    yield started
    started.stop()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_an_unavailable_source_is_asked_alone(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """Until it answers there is no convergence, which would ask every other source too; then there is one at once."""
    watcher.on_converged(None, ["common"], error="unavailable; look after it")
    assert until(lambda: len(store.asked) >= 3)
    assert not changed.is_set()
    assert set(store.asked) == {("common",)}
    store.answer = GOOD
    assert changed.wait(20)


def test_an_implausible_answer_is_no_news(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """A store that lost its keys is fetched again and again, and the loop converges only after its answer has changed."""
    store.answer = EMPTY
    watcher.on_converged(None, ["common"], accepted=False)
    assert changed.wait(20)
    changed.clear()
    watcher.on_converged(None, ["common"], accepted=False)
    asked = len(store.asked)
    assert until(lambda: len(store.asked) >= asked + 3)
    assert not changed.is_set()
    store.answer = GOOD
    assert changed.wait(20)


def test_an_answer_that_came_too_late_for_the_loop_counts_again(
    store: Store, changed: threading.Event, watcher: Watcher
) -> None:
    """A source that answered the watcher and then failed for the loop is tried again with the same answer."""
    store.answer = GOOD
    for _ in range(2):
        watcher.on_converged(None, ["common"])
        assert changed.wait(20)
        changed.clear()


def test_without_known_layers_the_loop_tries(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """If a fact is missing for its layers, the source cannot be asked alone: the loop discovers the facts again."""
    watcher.on_converged(None, None)
    assert changed.wait(20)
    assert store.asked == []


def test_another_reason_is_news(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """If a source becomes unavailable for another reason, the loop converges, so that the status has the reason."""
    watcher.on_converged(None, ["common"], error="its name does not resolve")
    assert changed.wait(20)


class Alarmed(Store):
    """A source whose watch waits for an alarm, and which adds a layer to those that it is asked for."""

    added_layers: ClassVar[tuple[str, ...]] = ("dynamic",)

    def __init__(self) -> None:
        super().__init__()
        self.alarm = threading.Event()
        self.watched = 0
        self.bug: BaseException | None = None

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        snapshot = super().fetch(layers)
        return Snapshot((*snapshot.layers, Layer("dynamic", {"user": "u"}, "1")), snapshot.revision)

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        self.watched += 1
        if self.bug is not None:
            raise self.bug
        if self.alarm.wait(0.1):
            self.alarm.clear()
            return True
        return False


def watching(source: Store, poll_seconds: float = 60.0) -> tuple[Watcher, list[float]]:
    """Return a watcher that has seen the source's content, and the times of its calls of `changed`, each with a convergence."""
    calls: list[float] = []

    def changed(name: str) -> None:
        calls.append(time.monotonic())
        threading.Timer(0.3, converge).start()

    def converge() -> None:
        try:
            watcher.on_converged(containment.fetch(source, "site", ["common"]), ["common"])
        except SourceUnreachable as error:
            watcher.on_converged(None, ["common"], error=str(error))

    watcher = Watcher("site", source, poll_seconds, changed, Watch(settle=Seconds(0.2), settle_max=Seconds(1.0)))
    watcher.on_converged(source.fetch(["common"]), ["common"])
    source.asked.clear()
    return watcher, calls


def test_an_alarm_without_news_is_one_fetch_and_no_convergence() -> None:
    """A watch that ends at its poll, and one for a change in other layers, cost their own store one fetch."""
    source = Alarmed()
    source.answer = GOOD
    watcher, calls = watching(source)
    source.alarm.set()
    assert until(lambda: bool(source.asked))
    time.sleep(0.5)
    watcher.stop()
    assert source.asked == [("common",)]
    assert calls == []


def test_a_change_is_followed_in_the_layers_that_are_asked_for() -> None:
    """A layer that a source adds, such as dynamic secrets, is not in its store, and a request for it would be denied."""
    source = Alarmed()
    source.answer = GOOD
    watcher, calls = watching(source)
    source.answer = EMPTY
    source.alarm.set()
    assert until(lambda: len(source.asked) >= 3)
    watcher.stop()
    assert calls
    assert set(source.asked) == {("common",)}


def test_a_watch_that_always_alarms_backs_off() -> None:
    """Alarms without news that come sooner than the poll are followed up less and less often."""
    source = Alarmed()
    source.answer = GOOD
    watcher, calls = watching(source)
    source.alarm.wait = lambda timeout=None: True  # type: ignore[method-assign]
    time.sleep(3.0)
    watcher.stop()
    assert 2 <= len(source.asked) < 30
    assert calls == []


@pytest.mark.parametrize("kind", [Store, Alarmed])
def test_a_poll_is_honoured(kind: type[Store]) -> None:
    """Polls without changes come every `poll`, a tenth more or less; they do not count as false alarms."""
    source = kind()
    source.answer = GOOD
    poll = 0.5
    if isinstance(source, Alarmed):
        source.alarm.wait = lambda timeout=None: time.sleep(poll) or True  # type: ignore[method-assign,func-returns-value]
    times: list[float] = []
    fetch = source.fetch

    def timed(layers: Sequence[str]) -> Snapshot:
        times.append(time.monotonic())
        return fetch(layers)

    source.fetch = timed  # type: ignore[method-assign]
    watcher, calls = watching(source, poll)
    times.clear()
    assert until(lambda: len(times) >= 8)
    watcher.stop()
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert calls == []
    assert min(gaps) >= poll * 0.9 - 0.01
    assert sum(gaps) / len(gaps) <= poll * 1.1 + 0.1


def test_a_poll_that_finds_something_new_triggers_a_convergence() -> None:
    """`changed` is called at the first poll after the change."""
    source = Store()
    source.answer = GOOD
    watcher, calls = watching(source, 0.3)
    source.answer = EMPTY
    assert until(lambda: bool(calls), 5)
    watcher.stop()


SECRET = "database/creds/s3cret"


@pytest.mark.parametrize("bug", [KeyError(SECRET), RuntimeError(SECRET), SystemExit(SECRET)])
def test_a_bug_of_a_source_ends_nothing(bug: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged once, without its text, and the watch goes on with a back-off; the loop's results
    still reach the watcher."""
    source = Alarmed()
    source.answer = GOOD
    watcher, calls = watching(source)
    source.bug = bug
    assert until(lambda: source.watched >= 4)
    watcher.on_converged(source.fetch(["common"]), ["common"])
    source.answer = EMPTY  # a source that cannot be watched is still fetched
    assert until(lambda: bool(calls))
    source.bug = None
    watcher.stop()
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == 1
    text = records[0].getMessage()
    assert "source site" in text and type(bug).__name__ in text and "test_watcher.py:" in text
    assert SECRET not in caplog.text


def test_a_bug_of_a_fetch_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The same for a bug in a source's fetch, also while the source is unavailable."""
    caplog.set_level(logging.DEBUG, logger="parbake.sources")
    source = Store()
    source.answer = GOOD
    watcher, calls = watching(source, 0.2)
    source.bug_of_fetch = KeyError(SECRET)
    assert until(lambda: bool(calls))  # the loop finds out, and reports the bug
    assert until(lambda: len(source.asked) >= 4)
    calls.clear()
    source.bug_of_fetch = None
    assert until(lambda: bool(calls))
    watcher.stop()
    assert "KeyError at" in caplog.text
    assert SECRET not in caplog.text


def test_a_bug_of_a_platform_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error in a provider's watch ends neither the thread nor the loop."""

    class Platform:
        waited = 0

        def watches(self, facts: Facts) -> bool:
            return True

        def wait(self, facts: Facts, timeout_seconds: float) -> bool:
            self.waited += 1
            if self.waited < 4:
                raise KeyError(SECRET)
            time.sleep(0.05)
            return True

        def close(self) -> None:
            pass

    changed = threading.Event()
    watcher = FactsWatcher(cast(PlatformWatcher, Platform()), changed.set)
    facts = Facts({}, {}, 0.0, ())
    watcher.on_converged(facts)
    assert changed.wait(20)
    watcher.on_converged(facts)
    watcher.stop()
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert SECRET not in caplog.text


def test_no_thread_is_started_twice() -> None:
    """The loop goes on after a watch thread has ended."""
    source = Alarmed()
    source.answer = GOOD
    watcher, _ = watching(source)
    watcher._stop.set()
    watcher._thread.join(5)
    watcher._stop.clear()
    watcher.on_converged(GOOD, ["common"])
    assert not watcher._thread.is_alive()


def test_a_watch_that_always_alarms_backs_off_without_known_layers_too() -> None:
    """If only the loop can fetch, a source that always reports a change costs it a back-off and no storm."""
    source = Alarmed()
    source.answer = GOOD
    calls: list[str] = []

    def changed(name: str) -> None:
        calls.append(name)
        site_watcher.on_converged(source.fetch(["common"]), None)

    site_watcher = Watcher("site", source, 60.0, changed)
    source.alarm.wait = lambda timeout=None: True  # type: ignore[method-assign]
    site_watcher.on_converged(source.fetch(["common"]), None)
    time.sleep(2.0)
    site_watcher.stop()
    assert 1 <= len(calls) < 25


@pytest.mark.parametrize("source", [Store(), Alarmed()], ids=["polled", "watched"])
def test_the_shared_stop_event_ends_the_thread(source: Store) -> None:
    """When parbake stops, the thread ends within two seconds, in a poll as in a watch, without a call of `stop`."""
    source.answer = GOOD
    stopping = threading.Event()
    watcher = Watcher("site", source, 60.0, lambda name: None, stopping=stopping)
    watcher.on_converged(source.fetch(["common"]), ["common"])
    assert until(watcher._thread.is_alive)
    stopping.set()
    watcher._thread.join(2)
    assert not watcher._thread.is_alive()


def test_the_shared_stop_event_ends_the_wait_for_a_convergence() -> None:
    """The same while the thread waits for a loop that converges no more."""
    source, stopping, changed = Store(), threading.Event(), threading.Event()
    source.answer = GOOD
    watcher = Watcher("site", source, 60.0, lambda name: changed.set(), stopping=stopping)
    watcher.on_converged(None, ["common"], error="unavailable")
    assert changed.wait(20)
    stopping.set()
    watcher._thread.join(2)
    assert not watcher._thread.is_alive()
