"""Deadlines: each is kept, whatever else is set or called off, and none is called after it was called off."""

from __future__ import annotations

import random
import threading
import time

import pytest

from agent.net.deadlines import Deadlines

LONG_SECONDS = 60.0


def test_a_nearer_deadline_does_not_wait_for_the_one_before_it() -> None:
    deadlines, called = Deadlines(), threading.Event()
    deadlines.at(time.monotonic() + LONG_SECONDS, lambda: None)
    time.sleep(0.1)  # the thread sleeps until the far one now
    deadlines.at(time.monotonic() + 0.05, called.set)
    assert called.wait(10)


def test_a_deadline_is_not_called_early() -> None:
    deadlines, called = Deadlines(), threading.Event()
    when, moments = time.monotonic() + 0.2, list[float]()

    def call() -> None:
        moments.append(time.monotonic())
        called.set()

    deadlines.at(when, call)
    assert called.wait(10)
    assert moments[0] >= when


def test_what_was_called_off_is_never_called() -> None:
    """Also where it is called off at the very moment: of many, none is called after `off` has returned."""
    deadlines, late = Deadlines(), list[int]()
    over = set[int]()

    def call(key: int) -> None:
        if key in over:
            late.append(key)

    for key in range(300):
        number = deadlines.at(time.monotonic() + random.uniform(0, 0.002), lambda key=key: call(key))  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.002))
        deadlines.off(number)
        over.add(key)
    time.sleep(0.1)
    assert late == []


def test_all_are_called_whichever_thread_sets_them() -> None:
    deadlines, called = Deadlines(), threading.Semaphore(0)

    def many() -> None:
        for _ in range(100):
            deadlines.at(time.monotonic() + random.uniform(0, 0.3), called.release)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert all(called.acquire(timeout=10) for _ in range(400))
    for thread in threads:
        thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_raises_ends_no_deadline_after_it() -> None:
    deadlines, called = Deadlines(), threading.Event()
    deadlines.at(time.monotonic(), lambda: 1 / 0)  # type: ignore[arg-type]
    time.sleep(0.2)
    deadlines.at(time.monotonic() + 0.05, called.set)
    assert called.wait(10)


def test_one_thread_serves_them_all() -> None:
    deadlines, before = Deadlines(), threading.active_count()
    numbers = [deadlines.at(time.monotonic() + LONG_SECONDS, lambda: None) for _ in range(50)]
    assert threading.active_count() - before <= 1
    for number in numbers:
        deadlines.off(number)
