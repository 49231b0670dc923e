"""`file`: a directory on the instance, one document or one directory a layer, watched through inotify."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from agent.errors import SourceError
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext
from agent.sources.backends import filetree

log = logging.getLogger("parbake")
_CHANGES = frozenset({"created", "deleted", "modified", "moved", "closed"})
_BLIND_SECONDS = 1.0
_AGAIN_SECONDS = 300.0
"""Until inotify is tried again where it did not work. Watches may have become free; a try costs threads and descriptors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    path: str = setting("the directory that holds the layers")

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f'path "{self.path}" must be absolute')


class FileSource:
    """Layers as PATH/LAYER.toml, .yaml, .yml or .json, or as a directory of one file a key."""

    options_class: ClassVar[type[Any]] = FileOptions

    def __init__(self, options: FileOptions, context: SourceContext) -> None:
        self._top = context.paths.host(options.path)
        self._paths = context.paths
        self._failed = ""
        self._stopping = context.stopping
        self._changed = threading.Event()
        self._closed = False
        self._observer: Any = None
        self._observed: frozenset[tuple[Path, int]] = frozenset()
        self._blind_until = 0.0
        self._warned = False
        self._lock = threading.Lock()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        try:
            found = [(layer, filetree.contents(self._top, layer, layers)) for layer in layers]
        except SourceError as error:
            self._failed = _failure(error)
            raise
        self._failed = digest = _digest(found)
        read = tuple(self._layer(layer, files) for layer, files in found)
        self._failed = ""
        return Snapshot(read, digest)

    def _layer(self, layer: str, files: filetree.Contents | None) -> Layer:
        where = self._paths.shown(self._top / layer if layer else self._top)
        return Layer(layer, None if files is None else filetree.tree(files, where), _digest([(layer, files)]))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not self._closed and not self._stopping.is_set():
            self._changed.clear()
            blind = not self._observe()
            if self._differs(seen):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, _BLIND_SECONDS) if blind else left)
        return False

    def _differs(self, seen: Snapshot) -> bool:
        """Whether the disk holds something else than `seen`, or than the last fetch where that one failed."""
        layers = [layer.name for layer in seen.layers]
        try:
            now = _digest([(layer, filetree.contents(self._top, layer, layers)) for layer in layers])
        except SourceError as error:
            now = _failure(error)
        return now != (self._failed or seen.revision)

    def _observe(self) -> bool:
        """Watch what there is to watch now; False where the kernel offers no more watches, and looking must do."""
        with self._lock:
            try:
                wanted = frozenset(_watchable(self._top))
            except OSError:  # replaced just now
                return False
            if self._closed or wanted == self._observed:
                return True
            self._unobserve()
            if time.monotonic() < self._blind_until:
                return False
            observer, waker, top = self._make_observer(), _Waker(self._changed), self._top.resolve()
            try:
                for path, _ in wanted:
                    observer.schedule(waker, str(path), recursive=path == top)
                observer.start()
            except (OSError, RuntimeError) as error:  # no instance, watch or descriptor is left, or no thread
                self._give_up(observer, error)
                return False
            if self._warned:
                log.info("inotify works again")
            self._warned = False
            self._observer, self._observed = observer, wanted
            return True

    def _make_observer(self) -> Any:
        from watchdog.observers import Observer

        return Observer()

    def _give_up(self, observer: Any, error: OSError | RuntimeError) -> None:
        self._blind_until = time.monotonic() + _AGAIN_SECONDS
        observer.stop()  # the watches that did begin, each with its threads
        _close_half_made(error)
        if not self._warned:
            why = getattr(error, "strerror", None) or type(error).__name__
            log.warning("inotify does not work (%s); looking every %g s", why, _BLIND_SECONDS)
        self._warned = True

    def _unobserve(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            with contextlib.suppress(RuntimeError):
                self._observer.join(2)
        self._observer, self._observed = None, frozenset()

    def close(self) -> None:
        self._closed = True
        self._changed.set()
        with self._lock:
            self._unobserve()


class _Waker:
    """What watchdog calls for each event. Our own reads are events too, and must not wake us again."""

    def __init__(self, changed: threading.Event) -> None:
        self._changed = changed

    def dispatch(self, event: Any) -> None:
        if event.event_type in _CHANGES:
            self._changed.set()


def _watchable(top: Path) -> list[tuple[Path, int]]:
    """The directory, and the nearest one above it that exists. By inode too: a renamed directory keeps its watches."""
    around = top.parent
    while not around.is_dir():
        around = around.parent
    directories = [around.resolve()]
    if top.is_dir():
        directories.append(top.resolve())
    return [(place, place.stat().st_ino) for place in directories]


def _close_half_made(error: BaseException) -> None:
    """Up to watchdog 6 an Inotify whose watches do not all fit is left with its descriptors open, and nobody holds it but
    the error's own trace. Later versions share one instance, under other names."""
    trace = error.__traceback__
    while trace is not None:
        made = trace.tb_frame.f_locals.get("self")
        if trace.tb_frame.f_code.co_name == "__init__" and type(made).__name__ == "Inotify":
            for name in ("_inotify_fd", "_kill_r", "_kill_w"):
                descriptor = made.__dict__.pop(name, None)
                if isinstance(descriptor, int):
                    with contextlib.suppress(OSError):
                        os.close(descriptor)
        trace = trace.tb_next


def _failure(error: SourceError) -> str:
    return f"error:{error}"


def _digest(found: Sequence[tuple[str, filetree.Contents | None]]) -> str:
    """A word for what was read: the same for the same content, whatever its times and inodes."""
    engine = hashlib.sha256()
    for layer, files in found:
        engine.update(repr((layer, None if files is None else [(name, len(content)) for name, content in files])).encode())
        for _, content in files or ():
            engine.update(content)
    return f"sha256:{engine.hexdigest()[:16]}"
