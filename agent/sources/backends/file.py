"""`file`: a directory on the instance. A layer is one document or one directory, watched through inotify."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from agent.errors import SourceError
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext
from agent.sources.backends import file_tree
from agent.sources.waiting import wait_for_any
from agent.system.inotify import DirectoryObserver, FileEvent, WatchUnavailable

log = logging.getLogger("parbake")
LOOK_SECONDS = 1.0
"""The interval of looks at the disk while inotify does not work."""
RETRY_SECONDS = 300.0
"""The time until inotify is tried again. Watches may have become free; a try costs threads and descriptors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    path: str = setting("the directory that holds the layers")

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f'path "{self.path}" must be absolute')


class FileSource:
    """Layers as PATH/LAYER.toml, .yaml, .yml or .json, or as a directory of one file a key."""

    options_class: ClassVar[type[FileOptions]] = FileOptions

    def __init__(self, options: FileOptions, context: SourceContext) -> None:
        self._top = context.paths.host(options.path)
        self._paths = context.paths
        self._failed = ""
        """The digest of the disk's content, or the error, at the last fetch if that failed."""
        self._stopping = context.stopping
        self._changed = threading.Event()
        self._closed = False
        self._observer: DirectoryObserver | None = None
        self._observed: frozenset[tuple[Path, int]] = frozenset()
        self._retry_at = 0.0
        self._warned = False
        self._lock = threading.Lock()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        try:
            contents = self._read(layers)
        except SourceError as error:
            self._failed = _error_digest(error)
            raise
        self._failed = revision = _digest(contents)
        fetched = tuple(self._layer(layer, files) for layer, files in contents)
        self._failed = ""
        return Snapshot(fetched, revision)

    def _read(self, layers: Sequence[str]) -> list[tuple[str, file_tree.Contents | None]]:
        return [(layer, file_tree.read_layer(self._top, layer, layers)) for layer in layers]

    def _layer(self, layer: str, files: file_tree.Contents | None) -> Layer:
        where = self._paths.shown(self._top / layer if layer else self._top)
        return Layer(layer, None if files is None else file_tree.parse(files, where), _digest([(layer, files)]))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not self._closed and not self._stopping.is_set():
            self._changed.clear()
            observed = self._observe()
            if self._differs(seen):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            wait_for_any(left if observed else min(left, LOOK_SECONDS), self._changed, self._stopping)
        return False

    def _differs(self, seen: Snapshot) -> bool:
        """Return whether the disk holds something other than `seen`, or than at the last fetch if that failed."""
        try:
            current = _digest(self._read([layer.name for layer in seen.layers]))
        except SourceError as error:
            current = _error_digest(error)
        return current != (self._failed or seen.revision)

    def _observe(self) -> bool:
        """Observe the directories that exist now. Return False if inotify does not work, and the disk must be looked at."""
        with self._lock:
            try:
                directories = frozenset(_directories_to_observe(self._top))
            except OSError:  # a directory was replaced just now
                return False
            if self._closed or directories == self._observed:
                return True
            self._unobserve()
            if time.monotonic() < self._retry_at:
                return False
            top = self._top.resolve()
            try:
                self._observer = DirectoryObserver({str(path): path == top for path, _ in directories}, self._wake)
            except WatchUnavailable as error:
                self._retry_at = time.monotonic() + RETRY_SECONDS
                if not self._warned:
                    log.warning("inotify does not work (%s); looking every %g s", error.reason, LOOK_SECONDS)
                self._warned = True
                return False
            if self._warned:
                log.info("inotify works again")
            self._warned = False
            self._observed = directories
            return True

    def _wake(self, event: FileEvent) -> None:
        self._changed.set()

    def _unobserve(self) -> None:
        observer, self._observer, self._observed = self._observer, None, frozenset()
        if observer is not None:
            observer.close()

    def close(self) -> None:
        self._closed = True
        self._changed.set()
        with self._lock:
            self._unobserve()


def _directories_to_observe(top: Path) -> list[tuple[Path, int]]:
    """Return `top` and the nearest directory above it that exists, each with its inode.

    inotify keeps watching a directory that was renamed, so the inode tells that another one took its place.
    """
    parent = top.parent
    while not parent.is_dir():
        parent = parent.parent
    directories = [parent.resolve()]
    if top.is_dir():
        directories.append(top.resolve())
    return [(directory, directory.stat().st_ino) for directory in directories]


def _error_digest(error: SourceError) -> str:
    return f"error:{error}"


def _digest(contents: Sequence[tuple[str, file_tree.Contents | None]]) -> str:
    """Return a revision of the contents: the same for the same bytes, whatever their times and inodes are."""
    engine = hashlib.sha256()
    for layer, files in contents:
        engine.update(repr((layer, None if files is None else [(name, len(content)) for name, content in files])).encode())
        for _, content in files or ():
            engine.update(content)
    return f"sha256:{engine.hexdigest()[:16]}"
