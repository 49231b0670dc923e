"""A source that is left alone for a while where it said so, or where it refuses us anyway.

The daemon converges for many reasons while a source is away, another source's among them. What a store said to one of
these attempts holds for the next ones too: a Retry-After until it is over, a refusal until a credential's file has changed,
and else for a time that doubles up to five minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from agent.errors import SourceDenied, SourceError, SourceUnreachable
from agent.model import Snapshot
from agent.net.credentials import resolve_path
from agent.paths import Paths
from agent.sources import Source, Watching

_LONGEST_SECONDS = 3600.0
_LONGEST_TURN_SECONDS = 5.0
_FIRST_REFUSAL_SECONDS, _LAST_REFUSAL_SECONDS = 5.0, 300.0

Clock = Callable[[], float]


class ThrottledSource:
    """Asks `source` unless it is to be left alone, and then says again what it said last."""

    options_class: ClassVar[type[Any]] = object

    def __init__(self, source: Source, options: Any, paths: Paths, clock: Clock = time.monotonic) -> None:
        self.source = source
        self._options = options
        self._paths = paths
        self._clock = clock
        self._until = 0.0
        self._error: SourceError | None = None
        self._refusals = 0
        self._files: tuple[Any, ...] = ()
        self._lock = threading.Lock()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        """As the source's. Raises what it raised last while it is left alone."""
        # The loop and the thread that polls both ask, and a backend may be made for one thread. But the loop has a watchdog.
        alone = self._lock.acquire(timeout=_LONGEST_TURN_SECONDS)
        try:
            return self._fetch(layers)
        finally:
            if alone:
                self._lock.release()

    def _fetch(self, layers: Sequence[str]) -> Snapshot:
        refused = isinstance(self._error, SourceDenied)
        if self._error is not None and self._clock() < self._until and not (refused and self._files != self._credentials()):
            raise self._error.with_traceback(None)  # or each time would add to the trace of the one before
        files = self._credentials()
        try:
            found = self.source.fetch(layers)
        except SourceDenied as error:
            self._refusals = self._refusals + 1 if self._files == files else 1
            seconds = min(_LAST_REFUSAL_SECONDS, _FIRST_REFUSAL_SECONDS * 2 ** (self._refusals - 1))
            self._error, self._until, self._files = error, self._clock() + seconds, files
            raise
        except SourceUnreachable as error:
            self._error, self._until = None, 0.0
            if error.retry_after_seconds:
                seconds = min(_LONGEST_SECONDS, error.retry_after_seconds)
                said = f"{error} and wants to be left alone for {seconds:g} s"
                self._error = SourceUnreachable(said, hint=error.hint, retry_after_seconds=seconds)
                self._until = self._clock() + seconds
                raise self._error from None
            raise
        self._error, self._refusals = None, 0
        return found

    def _credentials(self) -> tuple[Any, ...]:
        """What tells that a credential's file was replaced or written to."""
        if not dataclasses.is_dataclass(self._options):
            return ()
        found: list[Any] = []
        for field in dataclasses.fields(self._options):
            reference = getattr(self._options, field.name)
            if field.name.endswith("_file") and isinstance(reference, str) and reference:
                with contextlib.suppress(OSError, SourceDenied):
                    there = os.stat(resolve_path(reference, self._paths))
                    found.append((field.name, there.st_ino, there.st_mtime_ns, there.st_size))
        return tuple(found)

    def close(self) -> None:
        self.source.close()


class PatientWatching(ThrottledSource):
    """The same of a source that can be watched."""

    source: Any

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        found: bool = self.source.watch(seen, timeout_seconds)
        return found


def throttle(source: Source, options: Any, paths: Paths) -> Source:
    """The source, asked no more often than it likes."""
    return (PatientWatching if isinstance(source, Watching) else ThrottledSource)(source, options, paths)
