"""A source that denies, or asks for a pause, through an hour of the daemon's attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from agent.errors import SourceDenied, SourceError, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.paths import Paths
from agent.sources import AddsLayers, SourceContext, Watchable
from agent.sources.throttle import ThrottledSource, throttle

GOOD = Snapshot((Layer("common", {"name": "x"}),))
CONVERGENCE_SECONDS = 12.0
"""About how often a daemon converges while a source is unavailable: the watch and the loop each back off, with jitter."""


@dataclass(frozen=True)
class Options:
    token_file: str = "/token"


class Store:
    """A store that gives a fixed answer or error, and counts the fetches."""

    options_class: ClassVar[type[Options]] = Options

    def __init__(self, answer: Snapshot | SourceError) -> None:
        self.answer = answer
        self.fetches = 0

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        self.fetches += 1
        if isinstance(self.answer, Snapshot):
            return self.answer
        raise self.answer

    def close(self) -> None:
        return None


class WatchedStore(Store):
    added_layers: ClassVar[tuple[str, ...]] = ("more",)

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def context_of(root: Path) -> SourceContext:
    return SourceContext("site", Paths(root), 5.0)


def attempts(source: ThrottledSource[Options], clock: Clock, seconds: float) -> set[str]:
    """Converge for so many seconds, and return the messages of the errors."""
    messages, end = set(), clock.now + seconds
    while clock.now < end:
        try:
            source.fetch(["common"])
        except SourceError as error:
            messages.add(str(error))
        clock.now += CONVERGENCE_SECONDS
    return messages


def test_a_store_that_denies_is_not_hammered_for_an_hour(tmp_path: Path) -> None:
    """300 attempts of the daemon are some twenty requests, with one and the same message for the log."""
    (tmp_path / "token").write_text("old")
    store, clock = Store(SourceDenied("403 from the store")), Clock()
    source = ThrottledSource(store, Options(), context_of(tmp_path), clock)
    assert attempts(source, clock, 3600) == {"403 from the store"}
    assert 12 <= store.fetches <= 20


def test_a_token_that_was_rotated_is_tried_at_once(tmp_path: Path) -> None:
    """A denied source reads its token again: the first attempt after the file has changed asks the store."""
    (tmp_path / "token").write_text("old")
    store, clock = Store(SourceDenied("403")), Clock()
    source = ThrottledSource(store, Options(), context_of(tmp_path), clock)
    attempts(source, clock, 3600)
    store.answer, before = GOOD, store.fetches
    with pytest.raises(SourceDenied):
        source.fetch(["common"])
    assert store.fetches == before
    (tmp_path / "new").write_text("new token")
    (tmp_path / "new").rename(tmp_path / "token")
    assert source.fetch(["common"]) == GOOD


def test_without_a_new_token_it_is_tried_again_too(tmp_path: Path) -> None:
    """The permission may be granted at the store: that is found in five minutes, and then nothing is held back."""
    store, clock = Store(SourceDenied("403")), Clock()
    source = ThrottledSource(store, Options(), context_of(tmp_path), clock)
    attempts(source, clock, 3600)
    store.answer = GOOD
    attempts(source, clock, 312)
    before = store.fetches
    attempts(source, clock, 120)
    assert store.fetches == before + 10


def test_a_retry_after_holds_for_every_attempt(tmp_path: Path) -> None:
    """After 429 with Retry-After: 120 no attempt asks the store for 120 s; an absurd Retry-After ends after an hour."""
    store, clock = Store(SourceUnreachable("429", retry_after_seconds=120)), Clock()
    source = ThrottledSource(store, Options(), context_of(tmp_path), clock)
    assert attempts(source, clock, 119) == {"429; it asks for no request during 120 s"}
    assert store.fetches == 1
    clock.now += 2
    store.answer = SourceUnreachable("503", retry_after_seconds=1e9)
    attempts(source, clock, 3600)
    assert store.fetches == 2
    store.answer = GOOD
    assert source.fetch(["common"]) == GOOD


def test_an_unavailable_store_is_asked_by_every_attempt(tmp_path: Path) -> None:
    """Without a Retry-After the daemon's back-off spaces the attempts, and a store that is back is used at once."""
    store, clock = Store(SourceUnreachable("refused")), Clock()
    attempts(ThrottledSource(store, Options(), context_of(tmp_path), clock), clock, 120)
    assert store.fetches == 10


def test_only_what_can_be_watched_is_watched(tmp_path: Path) -> None:
    """The daemon tells by the method whether a source is polled; and the wrapper has the layers that its source adds."""
    watched = throttle(WatchedStore(GOOD), Options(), context_of(tmp_path))
    assert isinstance(watched, Watchable)
    assert isinstance(watched, AddsLayers)
    assert watched.added_layers == ("more",)
    assert watched.options_class is Options
    assert not isinstance(throttle(Store(GOOD), Options(), context_of(tmp_path)), Watchable)


class SlowStore(Store):
    """A store whose fetch lasts until `release` is set, whatever stops."""

    def __init__(self) -> None:
        super().__init__(GOOD)
        self.started, self.release = threading.Event(), threading.Event()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        self.started.set()
        self.release.wait(30)
        return super().fetch(layers)


def test_a_stop_ends_the_wait_for_another_thread_s_fetch(tmp_path: Path) -> None:
    """Two threads fetch one at a time, and the one that waits does not wait when parbake stops."""
    store, context = SlowStore(), context_of(tmp_path)
    source = ThrottledSource(store, Options(), context)
    other = threading.Thread(target=source.fetch, args=(["common"],))
    other.start()
    try:
        assert store.started.wait(10)
        context.stopping.set()
        started = time.monotonic()
        with pytest.raises(SourceUnreachable, match="stopped"):
            source.fetch(["common"])
        assert time.monotonic() - started < 2
    finally:
        store.release.set()
        other.join()
