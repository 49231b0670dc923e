"""Waiting for files to change, by watchdog. Armed only while nothing is there to read: a busy log sends an event a
write, and looking at each costs more than reading the line."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agent.shipping.stop import Stop

log = logging.getLogger("parbake")
_POLL_SECONDS = 1.0


class Arming:
    """Watches directories for the length of one wait."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._warned = False

    def wait(
        self, directories: Iterable[Path], timeout_seconds: float, stop: Stop, changed: Callable[[], bool]
    ) -> None:
        """Return on a change below `directories`, or when `changed` says there was one before the watch stood."""
        observer = self._observe(directories)
        try:
            if changed():
                return
            stop.poll(self._descriptor, timeout_seconds if observer else min(timeout_seconds, _POLL_SECONDS))
        finally:
            if observer is not None:
                observer.stop()
                observer.join(5)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _observe(self, directories: Iterable[Path]) -> Any:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        class Wake(FileSystemEventHandler):
            def dispatch(_self, event: object) -> None:
                os.eventfd_write(self._descriptor, 1)

        observer = Observer()
        try:
            for directory in directories:
                observer.schedule(Wake(), str(directory))
            observer.start()
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("log files are looked at once a second: they cannot be watched: %s", error.strerror)
            observer.unschedule_all()
            return None
        return observer
