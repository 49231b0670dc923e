"""Which log files are open, and where each is: new ones found, rotated ones followed, those of a checkpoint known again.

What is at a path may change between any two calls, so that nothing is concluded from a name: a file is opened first and
asked which it is, and what was in its place before is looked for after that.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.models import LogFile
from agent.shipping.readers import rotation
from agent.shipping.readers.rotation import Key, Sibling
from agent.shipping.readers.rotation_gaps import RotationGaps
from agent.shipping.readers.tail import Tail

log = logging.getLogger("parbake")
_GRACE_SECONDS = 10.0
"""How long the last line of a rotated file is waited for: its writer may not know of the rotation yet."""
_LOOKS_MAX = 20
_STATE = {"path": str, "device": int, "inode": int, "offset": int, "identity": str, "unread": int, "modified_ns": int}


def saved_states(position: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The files that a position speaks of; one that is damaged is left out, and its file is read anew."""
    files = position.get("files", [])
    found: list[Mapping[str, Any]] = [state for state in files if _is_state(state)] if isinstance(files, list) else []
    if not isinstance(files, list) or len(found) < len(files):
        log.warning("the checkpoint of the files is damaged in part; what it does not know is read from its beginning")
    return found


def _is_state(state: object) -> bool:
    if not isinstance(state, dict) or not all(type(state.get(name)) is kind for name, kind in _STATE.items()):
        return False
    return bool(state["offset"] >= 0)


class FileSet:
    """The tails of all configured log files."""

    def __init__(self, logs: Sequence[LogFile], paths: Paths, line_max: int, position: Mapping[str, Any]) -> None:
        self._logs, self._paths, self._line_max = logs, paths, line_max
        self._known: Sequence[Mapping[str, Any]] = saved_states(position)
        births = position.get("births")
        self._file_serial = births if type(births) is int and births >= 0 else 0
        self._started_file = False
        self._denied: set[Path] = set()
        self._unresolved: dict[Path, int] = {}
        self._reported_missing: set[Path] = set()
        self._gaps = RotationGaps(self._is_own_generation)
        self.tails: list[Tail] = []
        self.lost = 0
        self.skipped = 0

    def scan(self, since_us: int | None) -> None:
        """Open what is new, follow what moved, let go of what is finished."""
        self._resume_known()
        present = [path for path in self._matching() if since_us is None or _modified_us(path) >= since_us]
        matched = frozenset(present)
        for path in dict.fromkeys([*(tail.path for tail in self.tails), *self._unresolved, *present]):
            self._look_at(path, matched)
        self._unresolved.clear()
        self._reported_missing.clear()
        there = {rotation.key_of(path) for path in matched}
        for tail in [tail for tail in self.tails if tail.key not in there and self._finished(tail)]:
            tail.close()
            self.tails.remove(tail)

    def in_order(self) -> list[Tail]:
        """Rotated files first, oldest first. Those that were truncated are put right on the way."""
        for tail in [tail for tail in self.tails if tail.truncated()]:
            self._restart(tail)
        self.tails.sort(key=lambda tail: (not tail.rotated, tail.modified_ns if tail.rotated else 0))
        return list(self.tails)

    def state(self) -> dict[str, Any]:
        """What a later start goes on from. Called once a read: what was begun in one shares a number, so that the lines of
        a file get the same ids again after a kill, in whatever order the files are found then."""
        self._file_serial += self._started_file
        self._started_file = False
        return {"files": [*self._known, *(tail.state() for tail in self.tails)], "births": self._file_serial}

    def postpone(self, tail: Tail) -> None:
        """Let the others have their turn first: a log that grows faster than it is shipped must not hold them up for ever.
        Rotated files still come before what follows them."""
        self.tails.remove(tail)
        self.tails.append(tail)

    def done(self, tail: Tail) -> bool:
        """Whether the last line of a rotated file will not be ended any more."""
        return tail.rotated and tail.idle_seconds > _GRACE_SECONDS

    def take_counts(self) -> tuple[int, int]:
        """How many files were lost in part, and how many could not be read, since the last call."""
        counts = self.lost, self.skipped
        self.lost = self.skipped = 0
        return counts

    def close(self) -> None:
        for tail in self.tails:
            tail.close()
        self.tails = []

    def _matching(self) -> Iterator[Path]:
        for log_file in self._logs:
            yield from rotation.matching(self._paths.host(log_file.path))

    def _look_at(self, path: Path, matched: frozenset[Path]) -> None:
        """Have open what is at `path`, and what was there since the last look, however often it changes meanwhile."""
        for _ in range(_LOOKS_MAX):
            standing = next((tail for tail in self.tails if tail.path == path and not tail.rotated), None)
            key = rotation.key_of(path)
            if standing is not None and standing.key == key:
                return
            if standing is None and self._open_already(key):
                return
            if standing is not None:
                standing.rotated = True
            found = self._open(path, path) if key is not None and path in matched else None
            if found is not None and self._open_already(found.key):
                found.close()
                found = None
            self._catch_up(path, found)
            if found is None:
                return
            found.rotated = rotation.is_generation(path, matched)
            self._begin(found)
            self.tails.append(found)
            if found.rotated:
                return

    def _begin(self, tail: Tail) -> None:
        """Name a file that is read from its beginning."""
        self._started_file = True
        tail.name = f"{tail.key[0]}:{tail.key[1]}:{self._file_serial + 1}"

    def _open_already(self, key: Key | None) -> bool:
        return any(tail.key == key for tail in self.tails)

    def _catch_up(self, path: Path, found: Tail | None = None) -> None:
        """Open the generations that came and went since the newest that is known of `path`, if any is."""
        known = [tail for tail in self.tails if tail.path == path]
        newest = [tail.modified_ns for tail in known]
        if path in self._unresolved:
            newest.append(self._unresolved[path])
        if not newest:
            return
        oldest = self._open_generations(path, max(newest), found)
        last = max(known, key=lambda tail: tail.modified_ns, default=None)
        lost = self._gaps.after_last(path, last, max(newest), oldest)
        if lost and path in self._reported_missing and last is None:
            lost -= 1
        if lost:
            self.lost += lost
            log.warning("%s was rotated more often than it could be read; what came after the last line read is lost", path)

    def _open_generations(self, path: Path, since_ns: int, found: Tail | None = None) -> Sibling | None:
        """Open what a rotation has put away since. The oldest of them."""
        oldest = None
        known = {tail.key for tail in self.tails} | ({found.key} if found else set())
        for older in rotation.generations_since(path, since_ns, known):
            if not older.path.name.startswith(path.name) and self._settings_of(older.path) is not None:
                continue  # a log of its own, such as app-2.log beside app.log
            oldest = oldest or older
            if (tail := self._open_by_key(older.key, older.path, path)) is not None:
                tail.rotated = True
                self._begin(tail)
                self.tails.append(tail)
        return oldest

    def _is_own_generation(self, older: Path, path: Path) -> bool:
        """False for what belongs to a log of its own, such as app-2.log.1 beside app.log."""
        return older.name.startswith(path.name) or not (
            self._settings_of(older) or self._settings_of(rotation.without_generation(older))
        )

    def _restart(self, tail: Tail) -> None:
        """Read a truncated file from its beginning, after the copies that `copytruncate` made of it."""
        looked_ns, unread = tail.looked_ns, tail.seen > tail.offset
        copy = self._copy_of(tail.path, tail.state())
        if copy is not None:
            copy.rotated = True
            self.tails.append(copy)
            self._open_generations(tail.path, copy.modified_ns)
        else:
            # a copy of what came later may be there although that of what was read is compressed by now
            later = self._open_generations(tail.path, looked_ns)
            lost = self._gaps.in_copies(tail.path, looked_ns, tail.offset)
            lost = lost or int(unread and not (later and not tail.offset))
            if lost:
                self.lost += lost
                log.warning("%s was truncated; what was written since it was last read is lost", tail.path)
        tail.restart()
        self._begin(tail)

    def _copy_of(self, path: Path, state: Mapping[str, Any]) -> Tail | None:
        """A file beside `path` that begins as what `state` was read from, ready to be read on."""
        for sibling in rotation.copies(path) if state["offset"] else ():
            if not self._open_already(sibling.key) and (copy := self._open(sibling.path, path)) is not None:
                if not self._open_already(copy.key) and copy.resume(state):
                    return copy
                copy.close()
        return None

    def _finished(self, tail: Tail) -> bool:
        """A rotated file is let go of once it is read and gone from the disk, or was rotated once more: a writer that was
        not told of the rotation goes on writing to it."""
        if not self.done(tail) or tail.unread > 0:
            return False
        return tail.removed or any(
            other.path == tail.path and other.rotated and other.modified_ns > tail.modified_ns for other in self.tails
        )

    def _resume_known(self) -> None:
        """At the start: find each file of the checkpoint again, in its place, renamed, or as a copy."""
        states, self._known = self._known, ()
        for state in states:
            path = Path(state["path"])
            if self._settings_of(path) is None:
                continue
            tail = self._find(path, state)
            if tail is not None:
                if not tail.name:  # the checkpoint is an earlier version's
                    self._begin(tail)
                self.tails.append(tail)
                tail.rotated = rotation.key_of(path) != tail.key
                continue
            self._unresolved[path] = max(self._unresolved.get(path, 0), state["modified_ns"])
            if state["unread"] > 0:
                self.lost += 1
                self._reported_missing.add(path)
                log.warning("%s is gone from where it was; what was not read of it is lost", path)

    def _find(self, path: Path, state: Mapping[str, Any]) -> Tail | None:
        key = (state["device"], state["inode"])
        for find in (self._open, partial(self._open_by_key, key)):
            tail = find(path, path)
            if tail is None:
                continue
            if tail.resume(state) and (state["offset"] or tail.key == key) and not self._open_already(tail.key):
                return tail
            tail.close()
        return self._copy_of(path, state)

    def _settings_of(self, path: Path) -> LogFile | None:
        return next((f for f in self._logs if fnmatch.fnmatch(str(path), str(self._paths.host(f.path)))), None)

    def _open_by_key(self, key: Key, place: Path, path: Path) -> Tail | None:
        """The file `key`, last seen at `place`, wherever beside it a rotation has moved it by now."""
        for _ in range(_LOOKS_MAX):
            tail = self._open(place, path)
            if tail is not None and tail.key == key:
                return tail
            if tail is not None:
                tail.close()
            sibling = rotation.siblings(place).get(key)
            if sibling is None:
                return None
            place = sibling.path
        return None

    def _open(self, place: Path, path: Path) -> Tail | None:
        """The file at `place`, under the settings for `path`."""
        log_file = self._settings_of(path) or LogFile(path=str(path))
        try:
            return Tail.open(place, path, self._line_max, log_file.start, log_file.pause)
        except FileNotFoundError:
            return None
        except OSError as error:
            if place not in self._denied:
                self._denied.add(place)
                self.skipped += 1
                log.warning("%s cannot be read: %s; let group parbake-ship read it", place, error.strerror)
            return None


def _modified_us(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns // 1000
    except OSError:
        return 0
