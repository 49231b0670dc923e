"""Watches directories, by watchdog. No other module imports it.

watchdog costs 15 ms to import and up to two threads for each directory, so it is imported when the first watch begins.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_JOIN_SECONDS = 2.0
_READS = frozenset(("opened", "closed_no_write"))


class WatchUnavailable(Exception):
    """A directory cannot be watched. `reason` is for a log line. `no_threads`: no thread could be started."""

    def __init__(self, reason: str, *, no_threads: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.no_threads = reason, no_threads


@dataclass(frozen=True, slots=True)
class FileEvent:
    """One change. `kind` is watchdog's: created, modified, moved, deleted or closed. `moved_to` is "" for the other kinds."""

    kind: str
    path: str
    moved_to: str = ""


class DirectoryObserver:
    """Watches directories from its construction until `close`."""

    def __init__(
        self,
        directories: Mapping[str, bool],
        on_event: Callable[[FileEvent], None],
        *,
        on_unwatchable: Callable[[str, OSError], None] | None = None,
    ) -> None:
        """Watch `directories`, which maps paths to whether their subdirectories are watched too.

        `on_event` is called in a thread of the observer for each change. Opening or reading a file is not a change.
        `on_unwatchable` is called for each directory that cannot be watched, and the other directories are watched. Without
        `on_unwatchable`, such a directory raises WatchUnavailable, and nothing is watched.
        """
        from watchdog.observers import Observer

        self._observer: Any = None
        receiver: Any = _Receiver(on_event)  # watchdog calls nothing but `dispatch`
        try:
            self._observer = Observer()  # later versions of watchdog start a thread here
            self._observer.daemon = True
            if on_unwatchable is not None:
                self._observer.start()  # before the directories are added, so that each fails separately
            for directory, recursive in directories.items():
                try:
                    self._observer.schedule(receiver, directory, recursive=recursive)
                except OSError as error:
                    if on_unwatchable is None:
                        raise
                    on_unwatchable(directory, error)
            if on_unwatchable is None:
                self._observer.start()
        except (OSError, RuntimeError) as error:
            if self._observer is not None:
                self._observer.stop()
                self._observer.unschedule_all()
            _close_descriptors_of(error)
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise WatchUnavailable(reason, no_threads=isinstance(error, RuntimeError)) from None

    def close(self, join_seconds: float = _JOIN_SECONDS) -> None:
        """Stop watching. Waits up to `join_seconds` for the threads to end."""
        self._observer.stop()
        if join_seconds:
            with contextlib.suppress(RuntimeError):  # not started, or called in its own thread
                self._observer.join(join_seconds)


class _Receiver:
    """The event handler that watchdog calls."""

    def __init__(self, on_event: Callable[[FileEvent], None]) -> None:
        self._on_event = on_event

    def dispatch(self, event: Any) -> None:
        if event.event_type not in _READS:
            moved_to = os.fsdecode(getattr(event, "dest_path", "") or "")
            self._on_event(FileEvent(event.event_type, os.fsdecode(event.src_path), moved_to))


def _close_descriptors_of(error: BaseException) -> None:
    """Close the descriptors that a failed start leaves open.

    Up to watchdog 6, an Inotify object that fails to add a watch keeps its descriptors open, and only the traceback of the
    error refers to the object. Later versions share one object, with other names.
    """
    trace = error.__traceback__
    while trace is not None:
        instance = trace.tb_frame.f_locals.get("self")
        if trace.tb_frame.f_code.co_name == "__init__" and type(instance).__name__ == "Inotify":
            for name in ("_inotify_fd", "_kill_r", "_kill_w"):
                descriptor = instance.__dict__.pop(name, None)
                if isinstance(descriptor, int):
                    with contextlib.suppress(OSError):
                        os.close(descriptor)
        trace = trace.tb_next
