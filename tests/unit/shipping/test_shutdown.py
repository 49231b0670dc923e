"""The ends of the shipper's waits: the stop, the urgency before it, and the time-out."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from agent.shipping.shutdown import Stop


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    yield made
    made.close()


def later(seconds: float, act: object) -> None:
    threading.Timer(seconds, act).start()  # type: ignore[arg-type]


def test_a_stop_ends_every_wait(stop: Stop) -> None:
    """A sleeping thread wakes at the stop, and later waits end at the deadline."""
    began = time.monotonic()
    later(0.2, lambda: stop.set(0.3))
    assert stop.wait(60) is True
    assert stop.wait(60) is True
    assert 0.4 < time.monotonic() - began < 10
    assert stop.expired


def test_a_stop_out_of_a_signal_handler_ends_the_wait_of_the_very_thread(stop: Stop) -> None:
    """systemd's SIGTERM finds the main thread in a wait, which ends: nothing in it is held that the handler needs."""
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set(0))
    try:
        later(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
        began = time.monotonic()
        assert stop.wait(60) is True
        assert time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_urgency_shortens_the_wait_that_is_under_way_and_those_after_it(stop: Stop) -> None:
    """A minute's wait ends when things become urgent; from then on each lasts its short time, and not less."""
    began = time.monotonic()
    later(0.2, lambda: stop.set_urgent(True))
    assert stop.wait(60, urgent_seconds=0.1) is False
    assert 0.15 < time.monotonic() - began < 10
    began = time.monotonic()
    assert stop.wait(60, urgent_seconds=0.4) is False
    assert 0.35 < time.monotonic() - began < 10


def test_a_wait_that_is_not_to_be_hurried_lasts_its_time(stop: Stop) -> None:
    """Urgency does not shorten a wait without an urgent time, or with a time-out that is shorter."""
    stop.set_urgent(True)
    for urgent_seconds in (None, 30.0):
        began = time.monotonic()
        assert stop.wait(0.3, urgent_seconds=urgent_seconds) is False
        assert 0.25 < time.monotonic() - began < 10


def test_what_was_called_off_brings_the_usual_waits_back(stop: Stop) -> None:
    """After the urgency a wait lasts its whole time again, and the next urgency ends it again."""
    stop.set_urgent(True)
    stop.set_urgent(False)
    began = time.monotonic()
    assert stop.wait(0.4, urgent_seconds=0.0) is False
    assert 0.35 < time.monotonic() - began < 10
    later(0.2, lambda: stop.set_urgent(True))
    began = time.monotonic()
    stop.wait(60, urgent_seconds=0.0)
    assert time.monotonic() - began < 10


def test_waiting_while_draining_is_urgent_too(stop: Stop) -> None:
    """A back-off does not sleep through all of the time that a stop leaves."""
    stop.set(60)
    began = time.monotonic()
    assert stop.wait(30, urgent_seconds=0.2) is True
    assert time.monotonic() - began < 10
    assert not stop.expired


def test_an_endless_wait_can_be_asked_for(stop: Stop) -> None:
    """batch_age = "100d" is more than the kernel's call takes."""
    later(0.2, lambda: stop.set(0))
    assert stop.wait(100 * 86400.0) is True
