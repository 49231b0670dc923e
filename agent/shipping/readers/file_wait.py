"""Waits for log files to change, by inotify.

The watch exists only while there is nothing to read: a busy log causes an event per write, and handling each one would cost
more than reading the line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from agent.shipping.shutdown import Stop
from agent.system.inotify import DirectoryObserver, WatchUnavailable

log = logging.getLogger("parbake")
_POLL_SECONDS = 1.0
_DIRECTORIES_MAX = 8
"""In the whole process at once: a watch takes up to two threads per directory, and the unit has TasksMax=64."""


class WatchBudget:
    """How many more directories may be watched. The process has one, because its number of threads is limited."""

    def __init__(self, directories: int) -> None:
        self._left = directories
        self._lock = threading.Lock()

    def acquire(self, directories: int) -> bool:
        """Take `directories` from the budget. False, without taking any, if fewer are left."""
        with self._lock:
            if directories > self._left:
                return False
            self._left -= directories
            return True

    def release(self, directories: int) -> None:
        with self._lock:
            self._left += directories

    def disable(self) -> None:
        """Refuse every request from now on: the process has no thread left, and a watch might never report an event."""
        with self._lock:
            self._left = -(1 << 30)


_BUDGET = WatchBudget(_DIRECTORIES_MAX)


class DirectoryWatch:
    """Watches directories during one wait. If they cannot be watched, a wait lasts a second at most."""

    def __init__(self, budget: WatchBudget = _BUDGET) -> None:
        self._budget = budget
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._warned = False

    def wait(self, directories: Collection[Path], timeout_seconds: float, stop: Stop, changed: Callable[[], bool]) -> None:
        """Return on a change below `directories`, at the stop, or after the time-out.

        `changed` is called once the watch is active, and returns whether there was a change before that.
        """
        acquired = len(directories) if self._budget.acquire(len(directories)) else 0
        observer = None
        try:
            observer = self._observe(directories) if acquired else None
            if changed():
                return
            stop.poll(self._descriptor, timeout_seconds if observer else min(timeout_seconds, _POLL_SECONDS))
        finally:
            if observer is not None:
                observer.close()
            self._budget.release(acquired)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _observe(self, directories: Collection[Path]) -> DirectoryObserver | None:
        try:
            return DirectoryObserver(
                {str(directory): False for directory in directories}, lambda event: os.eventfd_write(self._descriptor, 1)
            )
        except WatchUnavailable as error:
            if not self._warned:
                self._warned = True
                log.warning("log files cannot be watched, and are polled once a second: %s", error.reason)
            if error.no_threads:
                self._budget.disable()
            return None
