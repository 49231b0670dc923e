"""The open log files: finds new ones, follows rotated ones, and recognises those of a checkpoint.

The file at a path may change between any two calls, so nothing is concluded from a name: a file is opened first, then its
inode is read, and then the earlier file of that path is looked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.models import LogFile
from agent.shipping.readers import rotation
from agent.shipping.readers.file_opener import FileOpener
from agent.shipping.readers.rotation import Key, Sibling
from agent.shipping.readers.rotation_gaps import RotationGaps
from agent.shipping.readers.tail import Tail

log = logging.getLogger("parbake")
_GRACE_SECONDS = 10.0
"""How long the last line of a rotated file may stay without its end: the writer may not know of the rotation yet."""
_TRIES_MAX = 20
_STATE_TYPES = {"path": str, "device": int, "inode": int, "offset": int, "identity": str, "unread": int, "modified_ns": int}


def saved_states(position: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the states of files in a position. A damaged state is omitted, and its file is read from its beginning."""
    files = position.get("files", [])
    states: list[Mapping[str, Any]] = [state for state in files if _is_state(state)] if isinstance(files, list) else []
    if not isinstance(files, list) or len(states) < len(files):
        log.warning("the checkpoint of the files is damaged in part; the files that it lacks are read from their beginning")
    return states


def _is_state(state: object) -> bool:
    if not isinstance(state, dict) or not all(type(state.get(name)) is kind for name, kind in _STATE_TYPES.items()):
        return False
    return bool(state["offset"] >= 0)


class FileSet:
    """The tails of all configured logs. `lost` counts files that were lost in part."""

    def __init__(self, logs: Sequence[LogFile], paths: Paths, line_max: int, position: Mapping[str, Any]) -> None:
        self._opener = FileOpener(logs, paths, line_max)
        self._saved: Sequence[Mapping[str, Any]] = saved_states(position)
        serial = position.get("births")
        self._file_serial = serial if type(serial) is int and serial >= 0 else 0
        self._started_file = False
        self._unresolved: dict[Path, int] = {}
        """Logs whose file of the checkpoint was not found, with the time when it was last written."""
        self._reported_missing: set[Path] = set()
        self._gaps = RotationGaps(self._opener.is_own_generation)
        self.tails: list[Tail] = []
        self.lost = 0

    def scan(self, since_us: int | None) -> None:
        """Open new files, follow moved ones, and close finished ones.

        With `since_us`, a file that was last written before that time (microseconds since 1970) is not opened.
        """
        self._resume_saved()
        present = [path for path in self._opener.matching() if since_us is None or _modified_us(path) >= since_us]
        matched = frozenset(present)
        for path in dict.fromkeys([*(tail.path for tail in self.tails), *self._unresolved, *present]):
            self._update(path, matched)
        self._unresolved.clear()
        self._reported_missing.clear()
        present_keys = {rotation.key_of(path) for path in matched}
        for tail in [tail for tail in self.tails if tail.key not in present_keys and self._finished(tail)]:
            tail.close()
            self.tails.remove(tail)

    def in_order(self) -> list[Tail]:
        """Return the tails, rotated files first and the oldest of them first. Truncated files are restarted before."""
        for tail in [tail for tail in self.tails if tail.truncated()]:
            self._restart(tail)
        self.tails.sort(key=lambda tail: (not tail.rotated, tail.modified_ns if tail.rotated else 0))
        return list(self.tails)

    def state(self) -> dict[str, Any]:
        """Return the position from which a later start continues. Called once per read.

        Files that were started in one read share a serial number. So their lines get the same ids after a kill, in whatever
        order the files are found then.
        """
        self._file_serial += self._started_file
        self._started_file = False
        return {"files": [*self._saved, *(tail.state() for tail in self.tails)], "births": self._file_serial}

    def postpone(self, tail: Tail) -> None:
        """Read the other files first next time: a log that grows faster than it is shipped must not delay them for ever.

        Rotated files still come before their successors.
        """
        self.tails.remove(tail)
        self.tails.append(tail)

    def done(self, tail: Tail) -> bool:
        """Return whether the last line of a rotated file is complete, or will not be completed any more."""
        return tail.rotated and tail.idle_seconds > _GRACE_SECONDS

    def take_counts(self) -> tuple[int, int]:
        """Return how many files were lost in part, and how many could not be read, since the last call."""
        counts = self.lost, self._opener.denied
        self.lost = self._opener.denied = 0
        return counts

    def close(self) -> None:
        for tail in self.tails:
            tail.close()
        self.tails = []

    def _update(self, path: Path, matched: frozenset[Path]) -> None:
        """Open the file at `path` and its earlier files since the last call, however often it changes meanwhile."""
        for _ in range(_TRIES_MAX):
            current = next((tail for tail in self.tails if tail.path == path and not tail.rotated), None)
            key = rotation.key_of(path)
            if current is not None and current.key == key:
                return
            if current is None and self._is_open(key):
                return
            if current is not None:
                current.rotated = True
            opened = self._opener.open(path, path) if key is not None and path in matched else None
            if opened is not None and self._is_open(opened.key):
                opened.close()
                opened = None
            self._catch_up(path, opened)
            if opened is None:
                return
            opened.rotated = rotation.is_generation(path, matched)
            self._start(opened)
            self.tails.append(opened)
            if opened.rotated:
                return

    def _start(self, tail: Tail) -> None:
        """Name a file that is read from its beginning."""
        self._started_file = True
        tail.name = f"{tail.key[0]}:{tail.key[1]}:{self._file_serial + 1}"

    def _is_open(self, key: Key | None) -> bool:
        return any(tail.key == key for tail in self.tails)

    def _catch_up(self, path: Path, opened: Tail | None = None) -> None:
        """Open the generations of `path` after the newest one that is known, and count those that are gone."""
        tails = [tail for tail in self.tails if tail.path == path]
        times = [tail.modified_ns for tail in tails]
        if path in self._unresolved:
            times.append(self._unresolved[path])
        if not times:
            return
        oldest = self._open_generations(path, max(times), opened)
        last = max(tails, key=lambda tail: tail.modified_ns, default=None)
        lost = self._gaps.after_last(path, last, max(times), oldest)
        if lost and path in self._reported_missing and last is None:
            lost -= 1
        if lost:
            self.lost += lost
            log.warning("%s was rotated more often than it could be read; the lines after the last line read are lost", path)

    def _open_generations(self, path: Path, since_ns: int, opened: Tail | None = None) -> Sibling | None:
        """Open the generations of `path` that were last written after `since_ns`. Return the oldest of them."""
        oldest = None
        open_keys = {tail.key for tail in self.tails} | ({opened.key} if opened else set())
        for generation in rotation.generations_since(path, since_ns, open_keys):
            if not generation.path.name.startswith(path.name) and self._opener.settings_of(generation.path) is not None:
                continue  # another log, such as app-2.log beside app.log
            oldest = oldest or generation
            if (tail := self._opener.open_by_key(generation.key, generation.path, path)) is not None:
                tail.rotated = True
                self._start(tail)
                self.tails.append(tail)
        return oldest

    def _restart(self, tail: Tail) -> None:
        """Read a truncated file from its beginning, after the copies that `copytruncate` made of it."""
        looked_ns, had_unread = tail.looked_ns, tail.seen > tail.offset
        copy = self._opener.copy_of(tail.path, tail.state(), self._is_open)
        if copy is not None:
            copy.rotated = True
            self.tails.append(copy)
            self._open_generations(tail.path, copy.modified_ns)
        else:
            # A copy of later lines may exist although the copy of what was read is already compressed.
            later = self._open_generations(tail.path, looked_ns)
            lost = self._gaps.in_copies(tail.path, looked_ns, tail.offset)
            lost = lost or int(had_unread and not (later and not tail.offset))
            if lost:
                self.lost += lost
                log.warning("%s was truncated; the lines written since the last read are lost", tail.path)
        tail.restart()
        self._start(tail)

    def _finished(self, tail: Tail) -> bool:
        """Return whether a rotated file is read and was removed, or rotated once more.

        Until then a writer that does not know of the rotation may still write to it.
        """
        if not self.done(tail) or tail.unread > 0:
            return False
        return tail.removed or any(
            other.path == tail.path and other.rotated and other.modified_ns > tail.modified_ns for other in self.tails
        )

    def _resume_saved(self) -> None:
        """At the start, find each file of the checkpoint at its path, renamed, or as a copy."""
        states, self._saved = self._saved, ()
        for state in states:
            path = Path(state["path"])
            if self._opener.settings_of(path) is None:
                continue
            tail = self._opener.find(path, state, self._is_open)
            if tail is not None:
                if not tail.name:  # an earlier version wrote the checkpoint
                    self._start(tail)
                self.tails.append(tail)
                tail.rotated = rotation.key_of(path) != tail.key
                continue
            self._unresolved[path] = max(self._unresolved.get(path, 0), state["modified_ns"])
            if state["unread"] > 0:
                self.lost += 1
                self._reported_missing.add(path)
                log.warning("%s is gone, and no copy of it was found; its unread lines are lost", path)


def _modified_us(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns // 1000
    except OSError:
        return 0
