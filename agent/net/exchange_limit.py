"""Ends one exchange with a peer at its deadline, or because the process stops."""

from __future__ import annotations

import math
import threading
import time
from types import TracebackType

from agent.net.deadlines import DEADLINES
from agent.net.sockets import AbortableSockets

_CHECK_SECONDS = 1.0
"""How often the deadline thread checks the stop event during an exchange. An event has no callback."""


class ExchangeLimit:
    """Aborts the exchange of the thread that enters it, at `ends` (of time.monotonic()) or after `stopping` is set.

    `expired` or `stopped` is true afterwards. The error that the abort causes in the thread does not have that reason.
    """

    def __init__(self, sockets: AbortableSockets, ends: float, stopping: threading.Event | None) -> None:
        self.expired = False
        self.stopped = stopping is not None and stopping.is_set()
        self._sockets, self._ends, self._stopping = sockets, ends, stopping
        self._thread = threading.get_ident()
        self._deadline = -1

    def __enter__(self) -> ExchangeLimit:
        self._deadline = DEADLINES.schedule(self._next_check(), self._check)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        DEADLINES.cancel(self._deadline)
        self._sockets.detach()

    def note_failure(self) -> None:
        """Count a failure at or after `ends` as expired: the socket's own time-out may come before the abort."""
        self.expired = self.expired or (not self.stopped and time.monotonic() >= self._ends)

    def _next_check(self) -> float:
        if self._stopping is None:
            return self._ends
        # at whole seconds, so that all open exchanges of a process are checked in one wake-up
        return min(self._ends, math.floor(time.monotonic() / _CHECK_SECONDS + 1) * _CHECK_SECONDS)

    def _check(self) -> float | None:
        self.stopped = self._stopping is not None and self._stopping.is_set()
        self.expired = not self.stopped and time.monotonic() >= self._ends
        if not self.stopped and not self.expired:
            return self._next_check()
        self._sockets.abort(self._thread)
        return None
