"""The journal, read through the C layer of python-systemd: the friendlier one converts every field, at four times the cost.

The position is the cursor of the last entry that was read. What was vacuumed before it was read is noticed by the
numbers that journald gives to entries, and counted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.models import PRIORITIES, Journal
from agent.shipping import OVERLAP_BYTES, Batch
from agent.shipping.readers.journal_columns import Row, Rows, Value, whole_row
from agent.shipping.readers.journal_cursor import Cursor
from agent.shipping.readers.journal_damage import damaged_files
from agent.shipping.shutdown import Stop

OWN_UNIT = b"parbake-ship.service"
_LOCAL_ONLY = 1
_INVALIDATE = 2
_UNKNOWN_LOSS = 1
_OWN_FIELDS = ("_SYSTEMD_UNIT", "_PID", "_BOOT_ID")
_AT_ONCE = 100
"""So many are read between two looks at how much memory they take."""
_TAIL_SECONDS = 10.0
_BOOT_FILE = "/proc/sys/kernel/random/boot_id"
_Take = Callable[[dict[str, Value]], Row]


class JournalReader:
    """The journal of this host, or below a root the one in /var/log/journal."""

    def __init__(
        self,
        options: Journal,
        paths: Paths,
        *,
        fields: Sequence[str],
        position: Mapping[str, Any] | None = None,
        since_us: int | None = None,
        line_max: int = 100_000,
        wants_ids: bool = False,
        open_journal: Callable[[], Any] | None = None,
    ) -> None:
        self._options = options
        self._paths = paths
        self._fields = tuple(fields)
        others = dict.fromkeys(name for name in (*fields, *_OWN_FIELDS) if name != "MESSAGE")
        self._names = () if "*" in fields else tuple(others)
        self._all: _Take = itemgetter(*others) if self._names else whole_row
        self._some: _Take = (lambda entry: tuple(map(entry.get, others))) if self._names else whole_row
        self._take: _Take = self._all
        self._cursor = str(position.get("cursor", "")) if position and since_us is None else ""
        self._since_us = since_us
        self._threshold = line_max + OVERLAP_BYTES
        self._wants_ids = wants_ids
        self._open_journal = open_journal or self._open_host
        self._journal: Any = None
        self._unseen = True
        self._tail_due = 0.0
        self._passed = 0
        self._own_pid = str(os.getpid()).encode()
        self._own_boots: frozenset[bytes] = frozenset()
        self._damaged: set[str] = set()

    def read(self, max_entries: int, max_bytes: int) -> Batch:
        if self._journal is None and not self._open():
            return Batch((), {})
        skipped = self._notice_changes()
        lost = self._lost_before() if self._unseen else 0
        if lost:
            self._tail_due = 0.0  # or the same gap would be counted again before a seldom match moves the position
        tail = self._tail() if self._sparse else ""
        rows = Rows(self._names, self._threshold)
        try:
            full, bad = self._fill(rows, max_entries, max_bytes)
            skipped += bad
        except OSError:
            self.close()  # it is opened anew, at the position
            rows.back()
            full, skipped = True, skipped + 1
        if rows.cursor:
            self._cursor = rows.cursor
        elif tail and not full:
            self._cursor = tail
        position = {"cursor": self._cursor} if self._cursor else {}
        batch = self._without_own(rows.batch(position, full=full, lost=max(lost, rows.missing), skipped=skipped))
        wanted = self._fields if self._names else batch.columns
        return replace(batch, columns={name: batch.columns[name] for name in wanted if name in batch.columns})

    def _fill(self, rows: Rows, max_entries: int, max_bytes: int) -> tuple[bool, int]:
        """Up to `max_entries` into `rows`. Whether there may be more, and how many of them could not be read."""
        skipped, count, size = 0, 0, 0
        before = None if self._sparse else Cursor.parse(self._cursor)
        while count < max_entries and size < max_bytes:
            most = min(_AT_ONCE, max_entries - count)
            looked, bad, more = self._look(rows, most)
            size += rows.weigh(looked)
            count += looked + bad
            skipped += bad
            self._passed += looked + bad
            if looked:
                cursor = self._journal._get_cursor()
                here = None if self._sparse else Cursor.parse(cursor)
                rows.end(cursor, _gone(before, here, self._passed))
                before, self._passed = here, 0
            if not more:
                return False, skipped
        return True, skipped

    def _look(self, rows: Rows, most: int) -> tuple[int, int, bool]:
        """Add the next entries; how many, how many could not be read, and whether there may be more. Each is taken apart at
        once, or the fields that nobody wants would be held until all are read."""
        journal = self._journal
        step, get_all, realtime, cursor = journal._next, journal._get_all, journal._get_realtime, journal._get_cursor
        times, messages, kept, ids = rows.times, rows.messages, rows.rows, rows.ids
        take, wants_ids = self._take, self._wants_ids
        last: Row | None = None
        before, skipped, more = len(times), 0, True
        for _ in range(most):
            if not step():
                more = False
                break
            try:
                time_us = realtime()
                entry = get_all()
                message = entry.get("MESSAGE")
                row = take(entry)
            except KeyError:  # it lacks one of the fields
                row = self._some(entry)
            except OSError:
                skipped += 1
                continue
            if row != last:
                last = rows.shared(row)
            times.append(time_us)
            messages.append(message)
            kept.append(last)
            if wants_ids:
                ids.append(cursor())
        if last is not None:
            # what comes after an entry without one of the fields is mostly of its kind, and an exception costs most
            self._take = self._some if None in last else self._all
        return len(times) - before, skipped, more

    def _without_own(self, raw: Batch) -> Batch:
        """Less the shipper's own entries. A process of an earlier boot, or of the host that an image was captured from, may
        have had our PID."""
        units, pids, boots = [raw.columns.get(name, ()) for name in _OWN_FIELDS]
        if OWN_UNIT not in units and self._own_pid not in pids:
            return raw
        # entries of which none has a field have no column of it
        rows = zip_longest(raw.times, units, pids, boots)
        own = [unit == OWN_UNIT or (pid == self._own_pid and boot in self._own_boots) for _, unit, pid, boot in rows]
        return raw.pick([i for i, mine in enumerate(own) if not mine]) if any(own) else raw

    def wait(self, timeout_seconds: float, stop: Stop) -> None:
        if self._journal is None:
            stop.wait(min(timeout_seconds, 5.0))
            return
        limit = self._journal.get_timeout_ms()
        stop.poll(self._journal.fileno(), timeout_seconds if limit < 0 else min(timeout_seconds, limit / 1000))

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    @property
    def _sparse(self) -> bool:
        return bool(self._options.units or self._options.match or self._options.priority != "debug")

    @property
    def _directory(self) -> Path:
        return self._paths.host("/var/log/journal")

    def _open_host(self) -> Any:
        from systemd._reader import _Reader

        return _Reader(_LOCAL_ONLY) if self._paths.is_host else _Reader(0, path=str(self._directory))

    def _open(self) -> bool:
        """Open at the position; False where there is no journal yet."""
        try:
            journal = self._open_journal()
        except OSError:
            return False
        journal.data_threshold = self._threshold
        journal.fileno()
        self._journal = journal
        self._own_boots = self._find_own_boots()
        self._match(journal)
        self._unseen = True
        self._passed = 0
        if self._cursor and Cursor.parse(self._cursor):
            journal.seek_cursor(self._cursor)
            self._step_over(journal)
        elif self._since_us is not None:
            journal.seek_realtime(self._since_us)
        else:
            self._cursor = ""
            self._seek_boot(journal)
        return True

    def _step_over(self, journal: Any) -> None:
        """Leave out the entry at the position, if it is still there: it was acknowledged."""
        known = Cursor.parse(self._cursor)
        here = Cursor.parse(journal._get_cursor()) if journal._next() else None
        if not (known and here and known.same_entry(here)):
            journal.seek_cursor(self._cursor)

    def _seek_boot(self, journal: Any) -> None:
        """The oldest entry of this boot. Below a root, whose boot is over, the oldest of all."""
        journal.seek_head()
        if not self._paths.is_host:
            return
        probe = self._open_journal()
        try:
            for boot in self._boots(probe):
                probe.add_match(b"_BOOT_ID=" + boot)
                probe.seek_head()
                if probe._next():
                    journal.seek_cursor(probe._get_cursor())
                    return
                probe.flush_matches()
        finally:
            probe.close()

    def _find_own_boots(self) -> frozenset[bytes]:
        """This boot by all of its names. Below a root the newest entry's is no boot of ours."""
        if not self._paths.is_host:
            return frozenset(_kernel_boot(Path(_BOOT_FILE)))
        probe = self._open_journal()
        try:
            return frozenset(self._boots(probe))
        finally:
            probe.close()

    def _boots(self, probe: Any) -> Iterator[bytes]:
        """The kernel's word for this boot; and the newest entry's, because the sandbox of a service in a container shows
        the id of its host."""
        yield from _kernel_boot(self._paths.host(_BOOT_FILE))
        probe.seek_tail()
        if probe._previous() and (boot := probe._get_all().get("_BOOT_ID")):
            yield boot

    def _match(self, journal: Any) -> None:
        """The settings as journal matches: any of the units, and a priority, and each field of `match`."""
        for unit in self._options.units:
            journal.add_match(f"_SYSTEMD_UNIT={unit}".encode())
            journal.add_disjunction()
            journal.add_match(f"UNIT={unit}".encode())
            journal.add_match(b"_PID=1")
            journal.add_disjunction()
        journal.add_conjunction()
        if self._options.priority != "debug":
            for number in range(PRIORITIES.index(self._options.priority) + 1):
                journal.add_match(f"PRIORITY={number}".encode())
            journal.add_conjunction()
        for match in self._options.match:
            journal.add_match(match.encode())

    def _notice_changes(self) -> int:
        """Take note of files that came and went. How many of them are damaged, which libsystemd leaves out in silence."""
        changed = self._unseen
        try:
            while code := self._journal.process():
                changed = changed or code == _INVALIDATE
        except OSError:
            self.close()
            if not self._open():
                return 0
        self._unseen = changed
        if not changed:
            return 0
        directories = [self._directory] + ([Path("/run/log/journal")] if self._paths.is_host else [])
        found = damaged_files(directories) - self._damaged
        self._damaged |= found
        return len(found)

    def _lost_before(self) -> int:
        """How many entries are gone between the last one read and the oldest that is left after it."""
        self._unseen = False
        known = Cursor.parse(self._cursor)
        if known is None:
            return 0
        probe = self._open_journal()
        try:
            probe.seek_cursor(self._cursor)
            here = Cursor.parse(probe._get_cursor()) if probe._next() else None
        finally:
            probe.close()
        if here is None:
            return 0
        missing = known.missing_before(here)
        return _UNKNOWN_LOSS if missing is None else missing

    def _tail(self) -> str:
        """The newest entry of all. With a filter that seldom matches, the position follows it, or every start would read
        the whole journal again. Asked before the read, or a match that comes in between would be passed over."""
        if time.monotonic() < self._tail_due:
            return ""
        self._tail_due = time.monotonic() + _TAIL_SECONDS
        probe = self._open_journal()
        try:
            probe.seek_tail()
            return str(probe._get_cursor()) if probe._previous() else ""
        finally:
            probe.close()


def _kernel_boot(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        yield path.read_bytes().strip().replace(b"-", b"")


def _gone(before: Cursor | None, here: Cursor | None, looked: int) -> int:
    """How many entries libsystemd has left out in silence between two looks, because the file they were in is damaged."""
    missing = before.missing_before(here) if before and here else None
    return max(0, missing + 1 - looked) if missing is not None else 0
