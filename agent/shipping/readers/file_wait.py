"""Waiting for files to change, by watchdog. Armed only while nothing is there to read: a busy log sends an event a
write, and looking at each costs more than reading the line."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from agent.shipping.shutdown import Stop

log = logging.getLogger("parbake")
_POLL_SECONDS = 1.0
_DIRECTORIES_MAX = 8
"""In the whole process at once: watchdog takes up to two threads for each, and the unit has TasksMax=64."""


class WatchBudget:
    """How many directories may still be watched. One for the process, because the limit on threads is the process's."""

    def __init__(self, directories: int) -> None:
        self._left = directories
        self._lock = threading.Lock()

    def take(self, directories: int) -> bool:
        with self._lock:
            if directories > self._left:
                return False
            self._left -= directories
            return True

    def give(self, directories: int) -> None:
        with self._lock:
            self._left += directories

    def end(self) -> None:
        """Nothing is watched from now on. Where a thread could not be started, watchdog keeps what it has opened, and may
        share a reader of events that never runs."""
        with self._lock:
            self._left = -(1 << 30)


_ROOM = WatchBudget(_DIRECTORIES_MAX)


class DirectoryWatch:
    """Watches directories for the length of one wait, or looks once a second where they cannot be watched."""

    def __init__(self, room: WatchBudget = _ROOM) -> None:
        self._room = room
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._warned = False

    def wait(self, directories: Collection[Path], timeout_seconds: float, stop: Stop, changed: Callable[[], bool]) -> None:
        """Return on a change below `directories`, or when `changed` says there was one before the watch stood."""
        taken = len(directories) if self._room.take(len(directories)) else 0
        observer = None
        try:
            observer = self._observe(directories) if taken else None
            if changed():
                return
            stop.poll(self._descriptor, timeout_seconds if observer else min(timeout_seconds, _POLL_SECONDS))
        finally:
            if observer is not None:
                observer.stop()
                observer.join(5)
            self._room.give(taken)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _observe(self, directories: Collection[Path]) -> Any:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        class Wake(FileSystemEventHandler):
            def dispatch(_self, event: object) -> None:
                os.eventfd_write(self._descriptor, 1)

        observer = None
        try:
            observer = Observer()
            for directory in directories:
                observer.schedule(Wake(), str(directory))
            observer.start()
        except (OSError, RuntimeError) as error:  # the latter where no thread can be started
            if not self._warned:
                self._warned = True
                log.warning("log files are looked at once a second: they cannot be watched: %s", error)
            if isinstance(error, RuntimeError):
                self._room.end()
            if observer is not None:
                observer.unschedule_all()
            return None
        return observer
