"""The thread that waits on a source: whom it asks while the source is away, and when it has the loop converge."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest

from agent.errors import SourceUnreachable
from agent.model import Layer, Snapshot
from agent.watching import Watcher

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
