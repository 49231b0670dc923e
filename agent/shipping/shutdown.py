"""The stop of the shipper: one flag that ends every wait, and the deadline for shipping the remaining entries.

`urgent` comes before it: once the platform has announced the end of the instance, no entry waits for others.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

_POLL_MAX_SECONDS = 86400.0
"""poll(2) accepts up to 24 days."""


class Stop:
    """A flag that is set once, from a signal handler or a thread. Without a lock, a signal handler cannot deadlock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stopped = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._became_urgent = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._deadline: float | None = None
        self.urgent = False

    def set(self, drain_seconds: float) -> None:
        """Stop everything, and ship the remaining entries within `drain_seconds`. Only the first call counts."""
        if self._deadline is None:
            self._deadline = self._clock() + drain_seconds
            os.eventfd_write(self._stopped, 1)

    def set_urgent(self, urgent: bool) -> None:
        """Limit waits to their `urgent_seconds` from now on, or lift the limit. One thread alone may call it."""
        if urgent != self.urgent:
            self.urgent = urgent
            os.eventfd_write(self._became_urgent, 1) if urgent else os.eventfd_read(self._became_urgent)

    @property
    def is_set(self) -> bool:
        return self._deadline is not None

    @property
    def expired(self) -> bool:
        """Whether the stop is set and the time for draining is over."""
        return self._deadline is not None and self._clock() >= self._deadline

    def wait(self, timeout_seconds: float, *, urgent_seconds: float | None = None) -> bool:
        """Sleep until the time-out or the stop. Return whether the stop is set.

        While draining, the sleep ends at the deadline at the latest. If the stop is set or shipping is or becomes urgent,
        the whole sleep takes `urgent_seconds` at most (None: no limit).
        """
        shortest = timeout_seconds if urgent_seconds is None else min(timeout_seconds, urgent_seconds)
        if self.is_set:
            time.sleep(max(0.0, self.clamp(shortest)))
            return True
        end, urgent_end = (time.monotonic() + seconds for seconds in (timeout_seconds, shortest))
        if not self.urgent:
            _wait_readable((self._stopped,) if shortest == timeout_seconds else (self._stopped, self._became_urgent), end)
        _wait_readable((self._stopped,), urgent_end if self.urgent else end)
        return self.is_set

    def clamp(self, timeout_seconds: float) -> float:
        """Return `timeout_seconds`, shortened so that it ends at the deadline."""
        if self._deadline is None:
            return timeout_seconds
        return max(0.0, min(timeout_seconds, self._deadline - self._clock()))

    def poll(self, descriptor: int, timeout_seconds: float) -> None:
        """Wait until `descriptor` is readable, the stop is set, or the time-out."""
        _wait_readable((descriptor, self._stopped), time.monotonic() + timeout_seconds)

    def close(self) -> None:
        os.close(self._stopped)
        os.close(self._became_urgent)


def _wait_readable(descriptors: tuple[int, ...], end: float) -> None:
    """Wait until one of `descriptors` is readable, or until `end` (time.monotonic())."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    # Rounded up: otherwise a caller in a loop would be busy for the last millisecond.
    poll.poll(max(0, int(min(end - time.monotonic(), _POLL_MAX_SECONDS) * 1000 + 1)))
