"""The thread that waits on a source: whom it asks while the source is away, and when it has the loop converge."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, cast

import pytest

from agent.discovery.watcher import Watcher as PlatformWatcher
from agent.errors import SourceUnreachable
from agent.model import Facts, Layer, Snapshot
from agent.settings.models import Watch
from agent.settings.schema import Seconds
from agent.sources.watcher import FactsWatcher, Watcher

EMPTY = Snapshot((Layer("common", None),), "1")
GOOD = Snapshot((Layer("common", {"a": "b"}),), "2")


class Store:
    """A source that is away until it has an answer."""

    options_class: ClassVar[type[Any]] = object

    def __init__(self) -> None:
        self.answer: Snapshot | None = None
        self.asked: list[tuple[str, ...]] = []

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        self.asked.append(tuple(layers))
        if self.answer is None:
            raise SourceUnreachable("away")
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
    made = Watcher("site", store, 60.0, lambda name: changed.set())
    yield made
    made.stop()


def until(what: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def test_a_source_that_is_away_is_asked_alone(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """Until it answers nothing converges, which would ask every other source too; then it does at once."""
    watcher.saw(None, ["common"], error="away; look after it")
    assert until(lambda: len(store.asked) >= 3)
    assert not changed.is_set()
    assert set(store.asked) == {("common",)}
    store.answer = GOOD
    assert changed.wait(20)


def test_an_answer_that_was_not_believed_is_no_news(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """A store that lost its keys is looked at again and again, and has the loop converge only once it says something else."""
    store.answer = EMPTY
    watcher.saw(None, ["common"], believed=False)
    assert changed.wait(20)
    changed.clear()
    watcher.saw(None, ["common"], believed=False)
    asked = len(store.asked)
    assert until(lambda: len(store.asked) >= asked + 3)
    assert not changed.is_set()
    store.answer = GOOD
    assert changed.wait(20)


def test_an_answer_that_came_too_late_for_the_loop_counts_again(
    store: Store, changed: threading.Event, watcher: Watcher
) -> None:
    """It answered the watcher and then not the loop: the same answer is worth another try."""
    store.answer = GOOD
    for _ in range(2):
        watcher.saw(None, ["common"])
        assert changed.wait(20)
        changed.clear()


def test_without_known_layers_the_loop_tries(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """Where a fact is missing for its layers the source cannot be asked alone: the loop finds the facts anew."""
    watcher.saw(None, None)
    assert changed.wait(20)
    assert store.asked == []


def test_another_reason_is_news(store: Store, changed: threading.Event, watcher: Watcher) -> None:
    """A source that is away for another reason than before has the loop converge, so that status tells the reason."""
    watcher.saw(None, ["common"], error="its name does not resolve")
    assert changed.wait(20)


class Alarmed(Store):
    """A source whose watch waits for an alarm, and which adds a layer of its own to those that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.alarm = threading.Event()
        self.watched = 0
        self.bug: BaseException | None = None

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        found = super().fetch(layers)
        return Snapshot((*found.layers, Layer("dynamic", {"user": "u"}, "1")), found.revision)

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        self.watched += 1
        if self.bug is not None:
            raise self.bug
        if self.alarm.wait(0.1):
            self.alarm.clear()
            return True
        return False


def watching(source: Store, poll_seconds: float = 60.0) -> tuple[Watcher, list[float]]:
    """A watcher that has seen what the source holds, and the times at which the loop was told of a change, which pulls."""
    told: list[float] = []

    def changed(name: str) -> None:
        told.append(time.monotonic())
        threading.Timer(0.3, lambda: made.saw(source.fetch(["common"]), ["common"])).start()

    made = Watcher("site", source, poll_seconds, changed, Watch(settle=Seconds(0.2), settle_max=Seconds(1.0)))
    made.saw(source.fetch(["common"]), ["common"])
    source.asked.clear()
    return made, told


def test_an_alarm_without_news_is_one_fetch_and_no_convergence() -> None:
    """A watch that says so at its poll, and one whose change was none of ours, cost their own store one fetch."""
    source = Alarmed()
    source.answer = GOOD
    made, told = watching(source)
    source.alarm.set()
    assert until(lambda: bool(source.asked))
    time.sleep(0.5)
    made.stop()
    assert source.asked == [("common",)]
    assert told == []


def test_a_change_is_followed_in_the_layers_that_are_asked_for() -> None:
    """What a source adds by itself, such as dynamic secrets, is no layer of its store: asked for, it would be denied."""
    source = Alarmed()
    source.answer = GOOD
    made, told = watching(source)
    source.answer = EMPTY
    source.alarm.set()
    assert until(lambda: len(source.asked) >= 3)
    made.stop()
    assert told
    assert set(source.asked) == {("common",)}


def test_a_watch_that_always_says_so_is_a_back_off() -> None:
    """Alarms without news that come sooner than the poll would are asked after less and less often."""
    source = Alarmed()
    source.answer = GOOD
    made, told = watching(source)
    source.alarm.wait = lambda timeout=None: True  # type: ignore[method-assign]
    time.sleep(3.0)
    made.stop()
    assert 2 <= len(source.asked) < 30
    assert told == []


@pytest.mark.parametrize("kind", [Store, Alarmed])
def test_a_poll_is_honoured(kind: type[Store]) -> None:
    """Polls in which nothing changes come every `poll`, a tenth more or less; none is mistaken for a false alarm."""
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
    made, told = watching(source, poll)
    times.clear()
    assert until(lambda: len(times) >= 8)
    made.stop()
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert told == []
    assert min(gaps) >= poll * 0.9 - 0.01
    assert sum(gaps) / len(gaps) <= poll * 1.1 + 0.1


def test_a_poll_that_finds_something_new_has_the_loop_converge() -> None:
    """The loop is told at the first poll after the change."""
    source = Store()
    source.answer = GOOD
    made, told = watching(source, 0.3)
    source.answer = EMPTY
    assert until(lambda: bool(told), 5)
    made.stop()


SECRET = "database/creds/s3cret"


@pytest.mark.parametrize("bug", [KeyError(SECRET), RuntimeError(SECRET), SystemExit(SECRET)])
def test_a_bug_of_a_source_ends_nothing(bug: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """An error that no source should raise is logged once, without what it says, and the source is watched on, with a
    back-off; the loop goes on telling the watcher what it saw."""
    source = Alarmed()
    source.answer = GOOD
    made, told = watching(source)
    source.bug = bug
    assert until(lambda: source.watched >= 4)
    made.saw(source.fetch(["common"]), ["common"])
    source.answer = EMPTY  # and it is looked at, where it cannot be watched
    assert until(lambda: bool(told))
    source.bug = None
    made.stop()
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == 1
    text = records[0].getMessage()
    assert "source site" in text and type(bug).__name__ in text and "test_watcher.py:" in text
    assert SECRET not in caplog.text


def test_a_bug_of_a_fetch_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The same where a source's fetch has the bug, also for a source that is away."""
    source = Store()
    source.answer = GOOD
    made, told = watching(source, 0.2)
    fetch, asked = source.fetch, []

    def broken(layers: Sequence[str]) -> Snapshot:
        asked.append(layers)
        raise KeyError(SECRET)

    source.fetch = broken  # type: ignore[method-assign]
    assert until(lambda: len(asked) >= 2)
    made.saw(None, ["common"])
    assert until(lambda: len(asked) >= 4)
    source.fetch = fetch  # type: ignore[method-assign]
    assert until(lambda: bool(told))
    made.stop()
    assert SECRET not in caplog.text


def test_a_bug_of_a_platform_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A provider whose watch raises what it should not costs neither the thread nor the loop."""

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
    made = FactsWatcher(cast(PlatformWatcher, Platform()), changed.set)
    facts = Facts({}, {}, 0.0, ())
    made.saw(facts)
    assert changed.wait(20)
    made.saw(facts)
    made.stop()
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert SECRET not in caplog.text


def test_no_thread_is_started_twice() -> None:
    """A thread that ended, for whatever reason, is not the loop's end."""
    source = Alarmed()
    source.answer = GOOD
    made, _ = watching(source)
    made._stopping.set()
    made._thread.join(5)
    made._stopping.clear()
    made.saw(GOOD, ["common"])
    assert not made._thread.is_alive()


def test_a_watch_that_always_says_so_backs_off_without_known_layers_too() -> None:
    """Where only the loop can look, a source that always claims to have changed costs it a back-off and no storm."""
    source = Alarmed()
    source.answer = GOOD
    told: list[str] = []

    def changed(name: str) -> None:
        told.append(name)
        made.saw(source.fetch(["common"]), None)

    made = Watcher("site", source, 60.0, changed)
    source.alarm.wait = lambda timeout=None: True  # type: ignore[method-assign]
    made.saw(source.fetch(["common"]), None)
    time.sleep(2.0)
    made.stop()
    assert 1 <= len(told) < 25
