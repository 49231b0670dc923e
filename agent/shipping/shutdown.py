"""The end of the shipper: one flag that wakes every wait, and the deadline by which all is shipped or given up.

And the time before it: once the platform has said that the instance goes, nothing waits for company.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

_LONGEST_SECONDS = 86400.0


class Stop:
    """Set once, from a signal handler or a thread: there is no lock in it that the handler could find taken."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stopped = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._hurried = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._deadline: float | None = None
        self.urgent = False

    def set(self, drain_seconds: float) -> None:
        """Everything is to end; what is there is shipped within `drain_seconds`. Only the first call counts."""
        if self._deadline is None:
            self._deadline = self._clock() + drain_seconds
            os.eventfd_write(self._stopped, 1)

    def hurry(self, urgent: bool) -> None:
        """From now on, or no longer, waits end after their `urgent_seconds`. Called by one thread alone."""
        if urgent != self.urgent:
            self.urgent = urgent
            os.eventfd_write(self._hurried, 1) if urgent else os.eventfd_read(self._hurried)

    @property
    def is_set(self) -> bool:
        return self._deadline is not None

    @property
    def over(self) -> bool:
        """Whether the time for draining is over as well."""
        return self._deadline is not None and self._clock() >= self._deadline

    def wait(self, timeout_seconds: float, *, urgent_seconds: float | None = None) -> bool:
        """Sleep until the time-out or the stop, and say whether it is the latter. While draining, sleep until the
        deadline at most. Where things are urgent, or become so, the whole sleep is `urgent_seconds` at most."""
        urgently = timeout_seconds if urgent_seconds is None else min(timeout_seconds, urgent_seconds)
        if self.is_set:
            time.sleep(max(0.0, self.within(urgently)))
            return True
        end, urgent_end = (time.monotonic() + seconds for seconds in (timeout_seconds, urgently))
        if not self.urgent:
            _readable((self._stopped,) if urgently == timeout_seconds else (self._stopped, self._hurried), end)
        _readable((self._stopped,), urgent_end if self.urgent else end)
        return self.is_set

    def within(self, timeout_seconds: float) -> float:
        """A time-out that does not reach past the deadline."""
        if self._deadline is None:
            return timeout_seconds
        return max(0.0, min(timeout_seconds, self._deadline - self._clock()))

    def poll(self, descriptor: int, timeout_seconds: float) -> None:
        """Wait until a descriptor is readable, the stop is set, or the time is over."""
        _readable((descriptor, self._stopped), time.monotonic() + timeout_seconds)

    def close(self) -> None:
        os.close(self._stopped)
        os.close(self._hurried)


def _readable(descriptors: tuple[int, ...], end: float) -> None:
    """Wait until one of them is, or until `end` (time.monotonic())."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    # Rounded up, or the last millisecond would be a busy loop of whoever calls again. The call takes 24 days at most.
    poll.poll(max(0, int(min(end - time.monotonic(), _LONGEST_SECONDS) * 1000 + 1)))
