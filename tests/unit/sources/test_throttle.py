"""A source that denies, or wants to be left alone, through an hour of the daemon's attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.errors import SourceDenied, SourceError, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.paths import Paths
from agent.sources import Watching
from agent.sources.throttle import ThrottledSource, throttle

GOOD = Snapshot((Layer("common", {"name": "x"}),))
BEAT = 12.0
"""About how often a daemon converges while a source is away: the watch and the loop each back off, with jitter."""


@dataclass(frozen=True)
class Options:
    token_file: str = "/token"


class Counted:
    """A store that answers, or fails, as it is told, and counts."""

    options_class: ClassVar[type[Any]] = Options

    def __init__(self, answer: Snapshot | SourceError) -> None:
        self.answer = answer
        self.asked = 0

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        self.asked += 1
        if isinstance(self.answer, Snapshot):
            return self.answer
        raise self.answer

    def close(self) -> None:
        return None


class Watched(Counted):
    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        return True


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def attempts(source: ThrottledSource, clock: Time, seconds: float) -> set[str]:
    """Converge through so many seconds; what was said."""
    said, end = set(), clock.now + seconds
    while clock.now < end:
        try:
            source.fetch(["common"])
        except SourceError as error:
            said.add(str(error))
        clock.now += BEAT
    return said


def test_a_store_that_denies_is_not_hammered_for_an_hour(tmp_path: Path) -> None:
    """Issue 4: 300 attempts of the daemon are some twenty requests, with one and the same answer for the log."""
    (tmp_path / "token").write_text("old")
    store, clock = Counted(SourceDenied("403 from the store")), Time()
    source = ThrottledSource(store, Options(), Paths(tmp_path), clock)
    assert attempts(source, clock, 3600) == {"403 from the store"}
    assert 12 <= store.asked <= 20


def test_a_token_that_was_rotated_is_tried_at_once(tmp_path: Path) -> None:
    """Issue 4: a denied source reads its token again: the first attempt after the file has changed asks the store."""
    (tmp_path / "token").write_text("old")
    store, clock = Counted(SourceDenied("403")), Time()
    source = ThrottledSource(store, Options(), Paths(tmp_path), clock)
    attempts(source, clock, 3600)
    store.answer, before = GOOD, store.asked
    with pytest.raises(SourceDenied):
        source.fetch(["common"])
    assert store.asked == before
    (tmp_path / "new").write_text("new token")
    (tmp_path / "new").rename(tmp_path / "token")
    assert source.fetch(["common"]) == GOOD


def test_without_a_new_token_it_is_tried_again_too(tmp_path: Path) -> None:
    """The right may have been given at the store: that is found in five minutes, and then nothing is held back."""
    store, clock = Counted(SourceDenied("403")), Time()
    source = ThrottledSource(store, Options(), Paths(tmp_path), clock)
    attempts(source, clock, 3600)
    store.answer = GOOD
    attempts(source, clock, 312)
    before = store.asked
    attempts(source, clock, 120)
    assert store.asked == before + 10


def test_a_retry_after_holds_for_every_attempt(tmp_path: Path) -> None:
    """429 with Retry-After: 120 is not asked again for 120 s, whoever converges meanwhile; absurd ones end after an hour."""
    store, clock = Counted(SourceUnreachable("429", retry_after_seconds=120)), Time()
    source = ThrottledSource(store, Options(), Paths(tmp_path), clock)
    assert attempts(source, clock, 119) == {"429 and wants to be left alone for 120 s"}
    assert store.asked == 1
    clock.now += 2
    store.answer = SourceUnreachable("503", retry_after_seconds=1e9)
    attempts(source, clock, 3600)
    assert store.asked == 2
    store.answer = GOOD
    assert source.fetch(["common"]) == GOOD


def test_a_store_that_is_away_is_asked_by_every_attempt(tmp_path: Path) -> None:
    """Without a word of its own it is the daemon's back-off that spaces the attempts: it is back at once when it is."""
    store, clock = Counted(SourceUnreachable("refused")), Time()
    attempts(ThrottledSource(store, Options(), Paths(tmp_path), clock), clock, 120)
    assert store.asked == 10


def test_only_what_can_be_watched_is_watched(tmp_path: Path) -> None:
    """The daemon tells by the method whether a source is polled."""
    assert isinstance(throttle(Watched(GOOD), Options(), Paths(tmp_path)), Watching)
    assert not isinstance(throttle(Counted(GOOD), Options(), Paths(tmp_path)), Watching)
