"""Deadlines: each is called at its moment, whatever else is scheduled, and never after `cancel` has returned."""

from __future__ import annotations

import random
import threading
import time

import pytest

from agent.net.deadlines import Deadlines
from tests.servers.processes import wait_until

LONG_SECONDS = 60.0


def test_a_nearer_deadline_does_not_wait_for_an_earlier_one_further_away() -> None:
    """The thread that sleeps until a far deadline wakes up for a nearer one."""
    deadlines, called = Deadlines(), threading.Event()
    deadlines.schedule(time.monotonic() + LONG_SECONDS, lambda: None)
    wait_until(lambda: deadlines._wakes_at != float("inf"), 10, "the thread to sleep until the far deadline", 0.005)
    deadlines.schedule(time.monotonic() + 0.05, called.set)
    assert called.wait(10)


def test_a_deadline_is_not_called_early() -> None:
    """A callback never runs before its moment."""
    deadlines, called = Deadlines(), threading.Event()
    deadline, moments = time.monotonic() + 0.2, list[float]()

    def call() -> None:
        moments.append(time.monotonic())
        called.set()

    deadlines.schedule(deadline, call)
    assert called.wait(10)
    assert moments[0] >= deadline


def test_a_cancelled_deadline_is_never_called() -> None:
    """Also if it is cancelled at the very moment: of many, none is called after `cancel` has returned."""
    deadlines, late = Deadlines(), list[int]()
    cancelled = set[int]()

    def call(key: int) -> None:
        if key in cancelled:
            late.append(key)

    for key in range(300):
        number = deadlines.schedule(time.monotonic() + random.uniform(0, 0.002), lambda key=key: call(key))  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.002))
        deadlines.cancel(number)
        cancelled.add(key)
    time.sleep(0.1)
    assert late == []


def test_a_callback_that_returns_a_moment_is_called_again_until_it_is_cancelled() -> None:
    """One number stands for all calls of a callback, so that a cancel between two calls ends it."""
    deadlines, calls = Deadlines(), threading.Semaphore(0)
    cancelled, late = threading.Event(), list[bool]()

    def call() -> float:
        late.append(cancelled.is_set())
        calls.release()
        return time.monotonic() + 0.005

    number = deadlines.schedule(time.monotonic(), call)
    assert all(calls.acquire(timeout=10) for _ in range(5))
    deadlines.cancel(number)
    cancelled.set()
    time.sleep(0.1)
    assert not any(late)


def test_deadlines_of_several_threads_are_all_called() -> None:
    """Threads that schedule at the same time lose no deadline."""
    deadlines, called = Deadlines(), threading.Semaphore(0)

    def schedule_many() -> None:
        for _ in range(100):
            deadlines.schedule(time.monotonic() + random.uniform(0, 0.3), called.release)

    threads = [threading.Thread(target=schedule_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert all(called.acquire(timeout=10) for _ in range(400))
    for thread in threads:
        thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_deadlines_after_a_callback_that_raises_are_called() -> None:
    """The thread that an error ended is started again by the next deadline."""
    deadlines, called = Deadlines(), threading.Event()
    deadlines.schedule(time.monotonic(), lambda: 1 / 0)
    wait_until(lambda: deadlines._thread is not None and not deadlines._thread.is_alive(), 10, "the end of the thread", 0.005)
    deadlines.schedule(time.monotonic() + 0.05, called.set)
    assert called.wait(10)


def test_one_thread_serves_all_deadlines() -> None:
    """Fifty deadlines start one thread."""
    deadlines, before = Deadlines(), threading.active_count()
    numbers = [deadlines.schedule(time.monotonic() + LONG_SECONDS, lambda: None) for _ in range(50)]
    assert threading.active_count() - before <= 1
    for number in numbers:
        deadlines.cancel(number)
