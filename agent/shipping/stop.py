"""The end of the shipper: one flag that wakes every wait, and the deadline by which all is shipped or given up."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable


class Stop:
    """Set once, from a signal handler or a thread. `fileno()` becomes readable then, for poll."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._event = threading.Event()
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._deadline: float | None = None

    def set(self, drain_seconds: float) -> None:
        """Everything is to end; what is there is shipped within `drain_seconds`. Only the first call counts."""
        if not self._event.is_set():
            self._deadline = self._clock() + drain_seconds
            self._event.set()
            os.eventfd_write(self._descriptor, 1)

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    @property
    def over(self) -> bool:
        """Whether the time for draining is over as well."""
        return self._deadline is not None and self._clock() >= self._deadline

    def wait(self, timeout_seconds: float) -> bool:
        """Sleep until the time-out or the stop, and say whether it is the latter. While draining, sleep until the
        deadline at most."""
        if not self._event.is_set():
            return self._event.wait(timeout_seconds)
        time.sleep(max(0.0, self.within(timeout_seconds)))
        return True

    def within(self, timeout_seconds: float) -> float:
        """A time-out that does not reach past the deadline."""
        if self._deadline is None:
            return timeout_seconds
        return max(0.0, min(timeout_seconds, self._deadline - self._clock()))

    def poll(self, descriptor: int, timeout_seconds: float) -> None:
        """Wait until a descriptor is readable, the stop is set, or the time is over."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self._descriptor, select.POLLIN)
        poll.poll(max(0, int(timeout_seconds * 1000)))

    def close(self) -> None:
        os.close(self._descriptor)
