"""Log files by glob: tailed through rename, create and copytruncate rotation, from checkpoints that know a file again.

The position lists every file with its offset and a digest of what is before it, so that another file that got the same
inode is told apart, and a copy is found.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.places import Places
from agent.settings.tables import LogFile
from agent.shipping import Batch
from agent.shipping.readers import rotation
from agent.shipping.readers.arming import Arming
from agent.shipping.readers.tail import Tail
from agent.shipping.stop import Stop

log = logging.getLogger("parbake")
_RESCAN_SECONDS = 5.0
_GRACE_SECONDS = 10.0
"""How long a rotated file is still watched: its writer may not know of the rotation yet."""
_ENTRY_BYTES = 300


class FilesReader:
    """All log files of the settings as one stream; the lines of one file keep their order."""

    def __init__(
        self,
        files: Sequence[str | LogFile],
        places: Places,
        *,
        position: Mapping[str, Any] | None = None,
        since_us: int | None = None,
        line_max: int = 100_000,
        wants_ids: bool = False,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._logs = [LogFile(path=file) if isinstance(file, str) else file for file in files]
        self._places = places
        self._known = list((position or {}).get("files", ()))
        self._since_us = since_us
        self._line_max = line_max
        self._wants_ids = wants_ids
        self._ending = ending
        self._hostname = socket.gethostname().encode()
        self._tails: list[Tail] = []
        self._scanned = float("-inf")
        self._denied: set[Path] = set()
        self._lost = 0
        self._skipped = 0
        self._arming: Arming | None = None

    def read(self, max_entries: int, max_bytes: int) -> Batch:
        self._scan()
        texts: list[bytes] = []
        names: list[bytes] = []
        ids: list[str] = []
        size, full = 0, False
        final = self._ending()
        for tail in self._in_order():
            while len(texts) < max_entries and size < max_bytes:
                lines = tail.read(max_entries - len(texts), max_bytes - size, final=final or self._done(tail))
                texts += lines.texts
                names += [self._places.shown(tail.path).encode()] * len(lines.texts)
                size += sum(map(len, lines.texts)) + _ENTRY_BYTES * len(lines.texts)
                if self._wants_ids:
                    ids += [_id(tail.key, at, text) for at, text in zip(lines.offsets, lines.texts, strict=True)]
                if not lines.more:
                    break
            else:
                full = True
                break
        lost, self._lost, skipped, self._skipped = self._lost, 0, self._skipped, 0
        now = time.time_ns() // 1000
        columns = {"MESSAGE": texts, "FILE": names, "_HOSTNAME": [self._hostname] * len(texts)} if texts else {}
        position = {"files": [tail.state() for tail in self._tails]}
        return Batch([now] * len(texts), columns, position, ids, full=full, lost=lost, skipped=skipped)

    def wait(self, timeout_seconds: float, stop: Stop) -> None:
        if self._arming is None:
            self._arming = Arming()
        held = any(tail.unread > 0 for tail in self._tails)
        longest = min([_RESCAN_SECONDS, timeout_seconds, *(log.pause for log in self._logs if held and log.start)])
        before = self._sizes()
        self._arming.wait(self._directories(), longest, stop, lambda: self._sizes() != before)
        self._scanned = float("-inf")

    def close(self) -> None:
        for tail in self._tails:
            tail.close()
        self._tails = []
        if self._arming is not None:
            self._arming.close()

    def _sizes(self) -> list[int]:
        return [tail.unread for tail in self._tails]

    def _directories(self) -> set[Path]:
        found = {tail.path.parent for tail in self._tails}
        for log_file in self._logs:
            parent = self._places.host(log_file.path).parent
            while any(c in str(parent) for c in "*?["):
                parent = parent.parent
            found.add(parent)
        return {directory for directory in found if directory.is_dir()}

    def _in_order(self) -> Iterator[Tail]:
        """Rotated files first, oldest first. Those that were truncated are put right on the way."""
        self._tails.sort(key=lambda tail: (not tail.rotated, tail.modified_ns if tail.rotated else 0))
        for tail in list(self._tails):
            if tail.truncated():
                copy = self._copy_of(tail)
                if copy is not None:
                    self._tails.append(copy)
                    yield copy
                elif tail.unread != 0:
                    log.warning("%s was truncated; what was written since it was last read is lost", tail.path)
                tail.restart()
            yield tail

    def _copy_of(self, tail: Tail) -> Tail | None:
        """The copy that `copytruncate` made, at the offset where the original was."""
        state = tail.state()
        for entry in sorted(rotation.siblings(tail.path), key=lambda e: -e.stat(follow_symlinks=False).st_mtime_ns):
            if entry.inode() == tail.key[1] or entry.name == tail.path.name:
                continue
            copy = self._open(Path(entry.path), tail.path)
            if copy is not None and state["offset"] and copy.resume(state):
                copy.rotated = True
                return copy
            if copy is not None:
                copy.close()
        return None

    def _done(self, tail: Tail) -> bool:
        """Whether the last line of a rotated file will not be ended any more."""
        return tail.rotated and tail.idle_seconds > _GRACE_SECONDS

    def _scan(self) -> None:
        """Open what is new, notice what moved, let go of what is finished."""
        if time.monotonic() - self._scanned < _RESCAN_SECONDS:
            return
        self._scanned = time.monotonic()
        self._resume_known()
        places = {path: _key(path) for path in self._matching()}
        for tail in self._tails:
            if places.get(tail.path) != tail.key:
                self._follow(tail)
        known = {tail.key for tail in self._tails}
        for path, key in places.items():
            if key is not None and key not in known and (tail_ := self._open(path, path)) is not None:
                known.add(key)
                tail_.rotated = rotation.is_generation(path, places)
                self._tails.append(tail_)
        for tail in [t for t in self._tails if t.key not in places.values() and self._done(t) and t.unread <= 0]:
            tail.close()
            self._tails.remove(tail)

    def _matching(self) -> Iterator[Path]:
        for log_file in self._logs:
            for path in rotation.matching(self._places.host(log_file.path)):
                if self._since_us is None or path.stat().st_mtime_ns // 1000 >= self._since_us:
                    yield path

    def _follow(self, tail: Tail) -> None:
        """A file that is not in its place: it was renamed or removed, and more than once while nobody looked, maybe."""
        if not tail.rotated:
            tail.rotated = True
            self._catch_up(tail.path, tail.modified_ns)

    def _catch_up(self, path: Path, modified_ns: int) -> None:
        """Open the generations that came and went between two looks."""
        for older in rotation.generations_since(path, modified_ns, [tail.key for tail in self._tails]):
            if (tail := self._open(older, path)) is not None:
                tail.rotated = True
                self._tails.append(tail)

    def _resume_known(self) -> None:
        """At the start: find each file of the checkpoint again, in its place, renamed, or as a copy. All of them first:
        what is then still unknown beside them came and went while nobody looked."""
        states, self._known = self._known, []
        newest: dict[Path, int] = {}
        for state in states:
            path = Path(str(state.get("path")))
            if self._settings_of(path) is None:
                continue
            tail = self._find(path, state)
            if tail is not None:
                self._tails.append(tail)
                tail.rotated = _key(path) != tail.key
            elif int(state.get("unread", 0)) > 0:
                self._lost += 1
            if tail is None or tail.rotated:
                modified = tail.modified_ns if tail is not None else int(state.get("modified_ns", 0))
                newest[path] = max(newest.get(path, 0), modified)
        in_place = {tail.path for tail in self._tails if not tail.rotated}
        for path, modified in newest.items():
            if path not in in_place:
                self._catch_up(path, modified)

    def _find(self, path: Path, state: Mapping[str, Any]) -> Tail | None:
        key = (state.get("device"), state.get("inode"))
        here = [path, rotation.by_inode(path, key), *(Path(entry.path) for entry in rotation.siblings(path))]
        return next((tail for place in here if place and (tail := self._resume(place, path, state))), None)

    def _resume(self, place: Path, path: Path, state: Mapping[str, Any]) -> Tail | None:
        key = _key(place)
        if key is None or any(tail.key == key for tail in self._tails):
            return None
        tail = self._open(place, path)
        if tail is None:
            return None
        fits = tail.resume(state) and (state["offset"] or key == (state.get("device"), state.get("inode")))
        if not fits:
            tail.close()
            return None
        return tail

    def _settings_of(self, path: Path) -> LogFile | None:
        return next((f for f in self._logs if fnmatch.fnmatch(str(path), str(self._places.host(f.path)))), None)

    def _open(self, place: Path, path: Path) -> Tail | None:
        """The file at `place`, under the settings for `path`."""
        log_file = self._settings_of(path) or LogFile(path=str(path))
        try:
            tail = Tail.open(place, self._line_max, log_file.start, log_file.pause)
        except FileNotFoundError:
            return None
        except OSError as error:
            if place not in self._denied:
                self._denied.add(place)
                self._skipped += 1
                log.warning("%s cannot be read: %s; let group parbake-ship read it", place, error.strerror)
            return None
        if tail is not None:
            tail.path = path
        return tail


def _key(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _id(key: tuple[int, int], offset: int, text: bytes) -> str:
    return hashlib.sha256(b"%d:%d:%d:%b" % (*key, offset, text)).hexdigest()[:32]
