"""When the daemon converges again although nothing changed: after a failure that waiting may cure."""

from __future__ import annotations

import time

from agent.net.backoff import Backoff

_FIRST_SECONDS, _LAST_SECONDS, _STALE_SECONDS = 1.0, 60.0, 300.0
_NEVER = float("inf")


class Retry:
    """The time of the next convergence without a cause."""

    def __init__(self) -> None:
        self._backoff = Backoff(_FIRST_SECONDS, _LAST_SECONDS, low=0.5)
        self._due = _NEVER

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._due

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def cancel(self) -> None:
        """A convergence succeeded, or only a change can cure the failure."""
        self._backoff.reset()
        self._due = _NEVER

    def soon(self) -> None:
        """Try again after a back-off."""
        self._due = time.monotonic() + self._backoff.next_seconds()

    def later(self) -> None:
        """Try again in some minutes: a watcher asks the source that is unavailable, and reports when it is back."""
        self._due = time.monotonic() + Backoff(_STALE_SECONDS, _STALE_SECONDS, low=0.5).next_seconds()
