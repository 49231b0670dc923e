"""Delays between attempts. They double up to a limit, and are partly random so that members of a swarm do not retry in step."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import tenacity

T = TypeVar("T")
_DOUBLINGS_MAX = 30


@dataclass(slots=True)
class Backoff:
    """The delays after consecutive failures.

    A delay is random between `low` (0 to 1) of a ceiling and the ceiling. The ceiling is `first_seconds` after the first
    failure, doubles with each further one, and never exceeds `last_seconds`.
    """

    first_seconds: float
    last_seconds: float
    low: float = 0.0
    failures: int = 0

    def next_seconds(self) -> float:
        """Count a failure and return the delay after it, in seconds."""
        ceiling = min(self.last_seconds, self.first_seconds * 2 ** min(self.failures, _DOUBLINGS_MAX))
        self.failures += 1
        return random.uniform(self.low * ceiling, ceiling)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """Start again with the first delay, after a success."""
        self.failures = 0


def jittered(seconds: float, share: float = 0.1) -> float:
    """Return `seconds` changed at random by up to `share` (0 to 1) of it."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311 - spreads load, guards nothing


def random_delay(most_seconds: float) -> float:
    """Return a random delay up to `most_seconds`, so that a swarm does not act at once."""
    return random.uniform(0, most_seconds)  # noqa: S311 - spreads load, guards nothing


def retry(
    call: Callable[[], T],
    backoff: Backoff,
    *,
    retryable: Callable[[BaseException], bool],
    attempts: int | None = None,
    deadline: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
    stopped: Callable[[], bool] = lambda: False,
    retry_after: Callable[[BaseException], float | None] = lambda error: None,
) -> T:
    """Return the result of `call`, which is called again after each `retryable` error.

    `attempts` is the greatest number of calls (None: no limit), `deadline` is a moment of `time.monotonic()`. Once `stopped`
    returns true, the next error is raised. `retry_after` returns the least delay after an error, in seconds, or None.

    Raises the last error of `call`.
    """
    try:
        return call()
    except Exception as error:
        if not retryable(error) or attempts == 1:
            raise
        first = error
    return _retry(call, first, backoff, retryable, attempts or 1 << 30, deadline or float("inf"), sleep, stopped, retry_after)


def _retry(
    call: Callable[[], T],
    first: Exception,
    backoff: Backoff,
    retryable: Callable[[BaseException], bool],
    attempts: int,
    deadline: float,
    sleep: Callable[[float], object],
    stopped: Callable[[], bool],
    retry_after: Callable[[BaseException], float | None],
) -> T:
    import tenacity  # costs 20 ms, and most calls succeed at once

    pending = [first]

    def attempt() -> T:
        if pending:
            raise pending.pop()
        return call()

    def requested_seconds(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return (retry_after(error) if error is not None else None) or 0.0

    def stop(state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= attempts or stopped() or time.monotonic() + requested_seconds(state) >= deadline

    def wait(state: tenacity.RetryCallState) -> float:
        seconds = max(requested_seconds(state), backoff.next_seconds())
        return max(0.0, min(seconds, deadline - time.monotonic() - 0.01))

    def pause(seconds: float) -> None:
        sleep(seconds)

    retrying = tenacity.Retrying(retry=tenacity.retry_if_exception(retryable), stop=stop, wait=wait, sleep=pause, reraise=True)
    return retrying(attempt)


def retry_after_seconds(value: str) -> float | None:
    """Parse a `Retry-After` header, seconds or an HTTP date (RFC 9110, section 10.2.3). None if it is neither."""
    from email.utils import parsedate_to_datetime

    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 10 else float(10**9)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None
