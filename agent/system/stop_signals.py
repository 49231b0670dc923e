"""SIGTERM and SIGINT as an event that every wait of the process watches."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

_CLOSE = 0
"""No signal has this number."""
Handler = Callable[[int, FrameType | None], None]


class StopSignals:
    """Sets the stop event after a signal.

    A handler runs in the middle of any code of the main thread, which may hold the lock of the event at that moment. So the
    handler only puts the signal in a queue, which takes no lock, and a thread sets the event.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._wait, name="stop signals", daemon=True).start()

    def put(self, number: int) -> None:
        """Report a signal. Safe in a signal handler."""
        self._received.put(number)

    def close(self) -> None:
        """End the thread. Later signals are ignored."""
        self._received.put(_CLOSE)

    def _wait(self) -> None:
        if self._received.get() != _CLOSE:
            self._stop.set()


def install(numbers: Sequence[int], handler: Handler) -> Callable[[], None]:
    """Install a handler for some signals, and return a function that restores the previous handlers."""
    previous = {number: signal.signal(number, handler) for number in numbers}

    def restore() -> None:
        for number, earlier in previous.items():
            signal.signal(number, earlier)

    return restore


class StopDeadline:
    """Whether `grace_seconds` have passed since a stop was first seen."""

    def __init__(self, stop: threading.Event, grace_seconds: float) -> None:
        self._stop, self._grace_seconds = stop, grace_seconds
        self._ends: float | None = None

    def passed(self) -> bool:
        if not self._stop.is_set():
            return False
        if self._ends is None:
            self._ends = time.monotonic() + self._grace_seconds
        return time.monotonic() > self._ends
