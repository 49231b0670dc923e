"""Delays between attempts: how long they are, and when a call is retried."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.net.backoff import Backoff, jittered, retry, retry_after_seconds


class Busy(Exception):
    """A temporary failure; `after` is the delay that the peer asked for."""

    def __init__(self, after: float | None = None) -> None:
        super().__init__("busy")
        self.after = after


class Calls:
    """A call that fails `failures` times, and a record of the sleeps between attempts."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.left, self.made, self.error = failures, 0, error or Busy()
        self.slept: list[float] = []

    def __call__(self) -> str:
        self.made += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


def is_busy(error: BaseException) -> bool:
    return isinstance(error, Busy)


@given(st.floats(0.01, 10), st.floats(10, 100), st.floats(0, 1), st.integers(1, 60))
def test_delays_double_up_to_the_last(first: float, last: float, low: float, failures: int) -> None:
    """Each delay is between `low` of its ceiling and the ceiling, however many failures there were."""
    backoff = Backoff(first, last, low)
    for number in range(failures):
        ceiling = min(last, first * 2**number)
        assert low * ceiling * 0.999 <= backoff.next_seconds() <= ceiling * 1.001
    backoff.reset()
    assert backoff.next_seconds() <= first * 1.001


@given(st.floats(0.1, 1000))
def test_jitter_stays_within_its_share(seconds: float) -> None:
    """A poll is early or late by a tenth at most."""
    assert seconds * 0.899 <= jittered(seconds) <= seconds * 1.101


def test_a_call_is_retried_until_it_succeeds() -> None:
    """The result is returned, and there is a sleep before each retry."""
    calls = Calls(2)
    assert retry(calls, Backoff(0.1, 1.0), retryable=is_busy, sleep=calls.slept.append) == "done"
    assert calls.made == 3 and len(calls.slept) == 2


def test_attempts_count_the_first_call() -> None:
    """Three attempts are three calls, and the last error is raised."""
    calls = Calls(9)
    with pytest.raises(Busy):
        retry(calls, Backoff(0.1, 1.0), retryable=is_busy, attempts=3, sleep=calls.slept.append)
    assert calls.made == 3


def test_another_error_is_raised_at_once() -> None:
    """An error that is not retryable is raised, at the first call and at a later one."""
    calls = Calls(1, KeyError("x"))
    with pytest.raises(KeyError):
        retry(calls, Backoff(0.1, 1.0), retryable=is_busy, sleep=calls.slept.append)
    assert (calls.made, calls.slept) == (1, [])


def test_retry_after_is_the_least_delay() -> None:
    """Retry-After is honoured, and if it is past the deadline there is no retry."""
    calls = Calls(1, Busy(3.0))
    retry(calls, Backoff(0.1, 0.2), retryable=is_busy, sleep=calls.slept.append, retry_after=lambda error: error.after)  # type: ignore[attr-defined]
    assert calls.slept == [3.0]
    calls = Calls(9, Busy(3.0))
    with pytest.raises(Busy):
        retry(
            calls,
            Backoff(0.1, 0.2),
            retryable=is_busy,
            deadline=time.monotonic() + 2,
            sleep=calls.slept.append,
            retry_after=lambda error: error.after,  # type: ignore[attr-defined]
        )
    assert calls.made == 1


def test_a_stop_ends_the_retries() -> None:
    """No attempt begins once parbake stops."""
    calls = Calls(9)
    with pytest.raises(Busy):
        retry(calls, Backoff(0.1, 0.2), retryable=is_busy, sleep=calls.slept.append, stopped=lambda: calls.made >= 2)
    assert calls.made == 2


def test_tenacity_comes_in_with_the_first_failure() -> None:
    """A call that succeeds at once, or has one attempt, costs no import."""
    code = (
        "import sys; from agent.net.backoff import Backoff, retry\n"
        "retry(lambda: 1, Backoff(1, 2), retryable=lambda error: True)\n"
        "try: retry(lambda: 1 / 0, Backoff(1, 2), retryable=lambda error: True, attempts=1)\n"
        "except ZeroDivisionError: pass\n"
        "assert 'tenacity' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120.0), (" 7 ", 7.0), ("", None), ("soon", None), ("-5", None), ("9" * 5000, 1e9), ("1.5", None), ("²", None)],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """RFC 9110, 10.2.3: whole seconds; a value that is neither a number nor a date is ignored."""
    assert retry_after_seconds(text) == seconds


def test_retry_after_as_a_date() -> None:
    """RFC 9110, 10.2.3: a date that has passed is now."""
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
