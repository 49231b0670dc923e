"""A source that is left alone for a while after it asked for that, or denied the access.

The daemon converges for many reasons while a source is unavailable, a change in another source among them. An answer to one
attempt therefore holds for the next ones too: a Retry-After until it is over, and a denial until a credential's file has
changed, or else for a delay that doubles up to five minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, cast

from agent.errors import SourceDenied, SourceError, SourceUnreachable
from agent.model import Snapshot
from agent.net.backoff import Backoff
from agent.net.credentials import resolve_path
from agent.sources import AddsLayers, Options, Source, SourceContext, Watchable

_RETRY_AFTER_MAX_SECONDS = 3600.0
_TURN_SECONDS = 5.0
_TURN_SLICE_SECONDS = 0.25
_DENIED_FIRST_SECONDS, _DENIED_LAST_SECONDS = 5.0, 300.0

Clock = Callable[[], float]
FileStamps = tuple[tuple[str, int, int, int], ...]
"""(option, inode, time of change in nanoseconds, size) of each credential's file."""


class ThrottledSource(Generic[Options]):
    """Fetches from `source`, and repeats its last error instead while it is to be left alone."""

    def __init__(
        self, source: Source[Options], options: Options, context: SourceContext, clock: Clock = time.monotonic
    ) -> None:
        """Wrap `source`. `options` are its own; those that end in `_file` name credentials. `clock` returns seconds."""
        self.source = source
        self._options = options
        self._paths = context.paths
        self._stopping = context.stopping
        self._clock = clock
        self._until = 0.0
        self._error: SourceError | None = None
        self._denials = Backoff(_DENIED_FIRST_SECONDS, _DENIED_LAST_SECONDS, low=1.0)
        self._denied_files: FileStamps = ()
        self._lock = threading.Lock()

    @property
    def options_class(self) -> type[Options]:
        return self.source.options_class

    @property
    def added_layers(self) -> tuple[str, ...]:
        return self.source.added_layers if isinstance(self.source, AddsLayers) else ()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        """Fetch as the source does. Raises its last error again while it is to be left alone."""
        # The loop and the polling thread both fetch, and a backend may not be made for two threads. But the loop has a
        # watchdog, so it does not wait for the other thread for long.
        acquired = self._acquire()
        try:
            return self._fetch(layers)
        finally:
            if acquired:
                self._lock.release()

    def _acquire(self) -> bool:
        """Wait for another thread's fetch. Return False if it takes too long; raises SourceUnreachable when stopped."""
        deadline = time.monotonic() + _TURN_SECONDS
        while not self._lock.acquire(timeout=_TURN_SLICE_SECONDS):
            if self._stopping.is_set():
                raise SourceUnreachable("stopped while another fetch was running")
            if time.monotonic() >= deadline:
                return False
        return True

    def _fetch(self, layers: Sequence[str]) -> Snapshot:
        denied = isinstance(self._error, SourceDenied)
        files = self._credential_files()
        if self._error is not None and self._clock() < self._until and not (denied and self._denied_files != files):
            raise self._error.with_traceback(None)  # each raise adds to the traceback
        try:
            snapshot = self.source.fetch(layers)
        except SourceDenied as error:
            if self._denied_files != files:
                self._denials.reset()
            self._error, self._until = error, self._clock() + self._denials.next_seconds()
            self._denied_files = files
            raise
        except SourceUnreachable as error:
            self._error, self._until = None, 0.0
            if error.retry_after_seconds:
                seconds = min(_RETRY_AFTER_MAX_SECONDS, error.retry_after_seconds)
                message = f"{error}; it asks for no request during {seconds:g} s"
                self._error = SourceUnreachable(message, hint=error.hint, retry_after_seconds=seconds)
                self._until = self._clock() + seconds
                raise self._error from None
            raise
        self._error = None
        self._denials.reset()
        return snapshot

    def _credential_files(self) -> FileStamps:
        """Stat the files of all `_file` options: a stamp changes when a file is replaced or written to."""
        if not dataclasses.is_dataclass(self._options):
            return ()
        stamps = []
        for field in dataclasses.fields(self._options):
            reference = getattr(self._options, field.name)
            if field.name.endswith("_file") and isinstance(reference, str) and reference:
                with contextlib.suppress(OSError, SourceDenied):
                    stat = os.stat(resolve_path(reference, self._paths))
                    stamps.append((field.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(stamps)

    def close(self) -> None:
        """Close the source."""
        self.source.close()


class ThrottledWatchableSource(ThrottledSource[Options]):
    """A throttled source that can be watched. The watch itself is not throttled."""

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """Watch as the source does."""
        return cast(Watchable, self.source).watch(seen, timeout_seconds)


def throttle(source: Source[Options], options: Options, context: SourceContext) -> Source[Options]:
    """Wrap a source so that it is not asked while it is to be left alone. The result is watchable if `source` is."""
    kind = ThrottledWatchableSource if isinstance(source, Watchable) else ThrottledSource
    return kind(source, options, context)
