"""Runs all deadlines of a process in one thread. A thread for each request would double the cost of a request."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

_NEVER = float("inf")
Callback = Callable[[], float | None]


class Deadlines:
    """Calls functions at moments of time.monotonic(), in a daemon thread that starts with the first deadline.

    A callback must return at once, because the other deadlines and `cancel` wait for it. A callback that returns a moment is
    called again then.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._scheduled: dict[int, tuple[float, Callback]] = {}
        self._numbers = itertools.count()
        self._wakes_at = _NEVER
        self._thread: threading.Thread | None = None

    def schedule(self, moment: float, callback: Callback) -> int:
        """Call `callback` at `moment`. Returns a number for `cancel`."""
        with self._changed:
            number = next(self._numbers)
            self._scheduled[number] = (moment, callback)
            if self._thread is None or not self._thread.is_alive():  # a callback that raises ends the thread
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            elif moment < self._wakes_at:
                self._changed.notify()
        return number

    def cancel(self, number: int) -> None:
        """Cancel a deadline, past or not. Its callback does not run after `cancel` has returned."""
        with self._changed:
            self._scheduled.pop(number, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for number in [number for number, (moment, _) in self._scheduled.items() if moment <= now]:
                    _, callback = self._scheduled.pop(number)
                    next_moment = callback()
                    if next_moment is not None:
                        self._scheduled[number] = (next_moment, callback)
                # If the nearest deadline was cancelled, this thread wakes up once for nothing. A notification costs more.
                self._wakes_at = min((moment for moment, _ in self._scheduled.values()), default=_NEVER)
                timeout = None if self._wakes_at == _NEVER else max(0.0, self._wakes_at - time.monotonic())
                self._changed.wait(timeout if timeout is None else min(timeout, threading.TIMEOUT_MAX))


DEADLINES = Deadlines()
