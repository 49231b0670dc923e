"""Watches the directories of the targets, so that an edit by hand is seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from agent.paths import Paths
from agent.system.inotify import DirectoryObserver, FileEvent, WatchUnavailable

log = logging.getLogger("parbake")
_REMOVALS = frozenset(("deleted", "moved"))


class TargetWatcher:
    """Calls `changed` when something happens to a target. parbake's own commits count too: the caller compares.

    `lost`: a watched directory was removed. One that is made again is not watched, although it may have the same inode number.
    """

    def __init__(self, paths: Paths, targets: Iterable[str], changed: Callable[[], None]) -> None:
        targets = list(targets)
        self.lost = False
        self._changed = changed
        self._targets = frozenset(str(paths.host(target)) for target in targets)
        self._directories = frozenset(str(paths.host(target).parent) for target in targets)
        self._observer: DirectoryObserver | None = None
        directories = dict.fromkeys(sorted(self._directories), False)
        try:
            self._observer = DirectoryObserver(directories, self._on_event, on_unwatchable=_log_unwatchable)
        except WatchUnavailable as error:
            log.warning("the directories of the targets cannot be watched (%s): an edit by hand is not noticed", error.reason)

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.close()

    def _on_event(self, event: FileEvent) -> None:
        if event.kind in _REMOVALS and event.path in self._directories:
            self.lost = True
            self._changed()
        elif {event.path, event.moved_to} & self._targets:
            self._changed()


def _log_unwatchable(directory: str, error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a missing one is made by the first commit
        log.warning("%s cannot be watched (%s): an edit by hand there is not noticed", directory, error.strerror)
