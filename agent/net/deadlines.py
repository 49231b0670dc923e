"""One thread for all deadlines of a process: a thread for each request would cost as much as the rest of the request."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

_NEVER = float("inf")


class Deadlines:
    """Calls back when a moment of time.monotonic() has come, from a daemon thread that the first deadline starts.

    A callback must return at once: others wait for it meanwhile, and so does `off`, after which it is never called.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._set: dict[int, tuple[float, Callable[[], None]]] = {}
        self._numbers = itertools.count()
        self._wakes = _NEVER
        self._thread: threading.Thread | None = None

    def at(self, moment: float, call: Callable[[], None]) -> int:
        """Have `call` called at `moment`. The number is for `off`."""
        with self._changed:
            number = next(self._numbers)
            self._set[number] = (moment, call)
            if self._thread is None or not self._thread.is_alive():  # a callback that raises ends it
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            elif moment < self._wakes:
                self._changed.notify()
        return number

    def off(self, number: int) -> None:
        """Call a deadline off; without effect where it has passed."""
        with self._changed:
            self._set.pop(number, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for number in [number for number, (moment, _) in self._set.items() if moment <= now]:
                    _, call = self._set.pop(number)
                    call()
                # Where what it waits for is called off it wakes for nothing, once: to wake it for that would cost more.
                self._wakes = min((moment for moment, _ in self._set.values()), default=_NEVER)
                self._changed.wait(None if self._wakes == _NEVER else min(self._wakes - now, threading.TIMEOUT_MAX))


DEADLINES = Deadlines()
