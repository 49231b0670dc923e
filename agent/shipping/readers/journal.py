"""Reads the journal through the C layer of python-systemd. Its Python layer converts every field, at four times the cost.

The position is the cursor of the last entry that was read. journald numbers its entries, so that a gap in the numbers shows
how many entries were vacuumed before they were read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from agent.paths import Paths
from agent.settings.models import Journal
from agent.shipping import OVERLAP_BYTES, Batch
from agent.shipping.readers.journal_access import JournalAccess, add_matches
from agent.shipping.readers.journal_columns import Row, Rows, Value, whole_row
from agent.shipping.readers.journal_cursor import Cursor
from agent.shipping.readers.journal_damage import damaged_files
from agent.shipping.shutdown import Stop

OWN_UNIT = b"parbake-ship.service"
_INVALIDATE = 2
"""SD_JOURNAL_INVALIDATE of sd_journal_process(3): files were added or removed."""
_UNKNOWN_LOSS = 1
"""The number of lost entries if the numbers cannot be compared."""
_OWN_FIELDS = ("_SYSTEMD_UNIT", "_PID", "_BOOT_ID")
_ENTRIES_PER_CHECK = 100
"""How many entries are read between two checks of the memory that they take."""
_NEWEST_SECONDS = 10.0
_RETRY_SECONDS = 5.0
_ToRow = Callable[[dict[str, Value]], Row]


class JournalReader:
    """The entries of the journal that the settings choose, except those of the shipper itself."""

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
        """Read `fields`, "*" for all, from `position`, or else from `since_us`, or else from the oldest entry of this boot.

        Fields are cut to `line_max` bytes and OVERLAP_BYTES more.
        """
        self._options = options
        self._access = JournalAccess(paths, open_journal)
        self._fields = tuple(fields)
        others = dict.fromkeys(name for name in (*fields, *_OWN_FIELDS) if name != "MESSAGE")
        self._names = () if "*" in fields else tuple(others)
        self._complete_row: _ToRow = itemgetter(*others) if self._names else whole_row
        self._partial_row: _ToRow = (lambda entry: tuple(map(entry.get, others))) if self._names else whole_row
        self._to_row: _ToRow = self._complete_row
        self._cursor = str(position.get("cursor", "")) if position and since_us is None else ""
        self._since_us = since_us
        self._threshold = line_max + OVERLAP_BYTES
        self._wants_ids = wants_ids
        self._journal: Any = None
        self._files_changed = True
        self._newest_due = 0.0
        self._visited = 0
        self._own_pid = str(os.getpid()).encode()
        self._own_boots: frozenset[bytes] = frozenset()
        self._damaged: set[str] = set()

    def read(self, max_entries: int, max_bytes: int) -> Batch:
        """Return the next entries; an empty batch if there is no journal yet."""
        if self._journal is None and not self._open():
            return Batch((), {})
        skipped = self._process_changes()
        lost = self._lost_before() if self._files_changed else 0
        if lost:
            self._newest_due = 0.0  # otherwise the gap would be counted again until a rare match moves the position
        newest = self._newest_if_due() if self._filtered else ""
        rows = Rows(self._names, self._threshold)
        try:
            full, unreadable = self._fill(rows, max_entries, max_bytes)
            skipped += unreadable
        except OSError:
            self.close()  # the next read opens it again, at the position
            rows.discard_unfinished()
            full, skipped = True, skipped + 1
        if rows.cursor:
            self._cursor = rows.cursor
        elif newest and not full:
            self._cursor = newest
        position = {"cursor": self._cursor} if self._cursor else {}
        batch = self._without_own(rows.batch(position, full=full, lost=max(lost, rows.missing), skipped=skipped))
        names = self._fields if self._names else batch.columns
        return replace(batch, columns={name: batch.columns[name] for name in names if name in batch.columns})

    def _fill(self, rows: Rows, max_entries: int, max_bytes: int) -> tuple[bool, int]:
        """Read up to `max_entries` into `rows`. Return whether there may be more, and how many could not be read."""
        skipped, count, size = 0, 0, 0
        previous = None if self._filtered else Cursor.parse(self._cursor)
        while count < max_entries and size < max_bytes:
            added, unreadable, more = self._read_some(rows, min(_ENTRIES_PER_CHECK, max_entries - count))
            size += rows.weigh(added)
            count += added + unreadable
            skipped += unreadable
            self._visited += added + unreadable
            if added:
                cursor = self._journal._get_cursor()
                current = None if self._filtered else Cursor.parse(cursor)
                rows.finish(cursor, _silently_missing(previous, current, self._visited))
                previous, self._visited = current, 0
            if not more:
                return False, skipped
        return True, skipped

    def _read_some(self, rows: Rows, most: int) -> tuple[int, int, bool]:
        """Add up to `most` entries. Return how many were added, how many could not be read, and whether there may be more.

        Each entry becomes a row at once; otherwise fields that are not shipped would take memory until all are read.
        """
        journal = self._journal
        step, get_all, realtime, cursor = journal._next, journal._get_all, journal._get_realtime, journal._get_cursor
        times, messages, kept, ids = rows.times, rows.messages, rows.rows, rows.ids
        to_row, wants_ids = self._to_row, self._wants_ids
        last: Row | None = None
        before, unreadable, more = len(times), 0, True
        for _ in range(most):
            if not step():
                more = False
                break
            try:
                time_us = realtime()
                entry = get_all()
                message = entry.get("MESSAGE")
                row = to_row(entry)
            except KeyError:  # the entry lacks one of the fields
                row = self._partial_row(entry)
            except OSError:
                unreadable += 1
                continue
            if row != last:
                last = rows.intern(row)
            times.append(time_us)
            messages.append(message)
            kept.append(last)
            if wants_ids:
                ids.append(cursor())
        if last is not None:
            # The next entries mostly lack the same fields, and an exception costs more than looking for each field.
            self._to_row = self._partial_row if None in last else self._complete_row
        return len(times) - before, unreadable, more

    def _without_own(self, batch: Batch) -> Batch:
        """Return the batch without the shipper's own entries.

        A process of an earlier boot, or of the host that an image was captured from, may have had the same PID.
        """
        units, pids, boots = [batch.columns.get(name, ()) for name in _OWN_FIELDS]
        if OWN_UNIT not in units and self._own_pid not in pids:
            return batch
        # A field that no entry has is not a column.
        rows = zip_longest(batch.times, units, pids, boots)
        own = [unit == OWN_UNIT or (pid == self._own_pid and boot in self._own_boots) for _, unit, pid, boot in rows]
        return batch.pick([i for i, is_own in enumerate(own) if not is_own]) if any(own) else batch

    def wait(self, timeout_seconds: float, stop: Stop) -> None:
        """Return when the journal has changed, at the stop, or after the time-out."""
        if self._journal is None:
            stop.wait(min(timeout_seconds, _RETRY_SECONDS))
            return
        limit_ms = self._journal.get_timeout_ms()
        stop.poll(self._journal.fileno(), timeout_seconds if limit_ms < 0 else min(timeout_seconds, limit_ms / 1000))

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    @property
    def _filtered(self) -> bool:
        """Whether the settings choose some of the entries, so that gaps in the numbers are not losses."""
        return bool(self._options.units or self._options.match or self._options.priority != "debug")

    def _open(self) -> bool:
        """Open the journal at the position. False if there is no journal yet."""
        try:
            journal = self._access.open()
        except OSError:
            return False
        journal.data_threshold = self._threshold
        journal.fileno()
        self._journal = journal
        self._own_boots = self._access.own_boots()
        add_matches(journal, self._options)
        self._files_changed = True
        self._visited = 0
        if self._cursor and Cursor.parse(self._cursor):
            journal.seek_cursor(self._cursor)
            self._step_over(journal)
        elif self._since_us is not None:
            journal.seek_realtime(self._since_us)
        else:
            self._cursor = ""
            self._access.seek_boot(journal)
        return True

    def _step_over(self, journal: Any) -> None:
        """Skip the entry at the position if it still exists: it is acknowledged."""
        acknowledged = Cursor.parse(self._cursor)
        current = Cursor.parse(journal._get_cursor()) if journal._next() else None
        if not (acknowledged and current and acknowledged.same_entry(current)):
            journal.seek_cursor(self._cursor)

    def _process_changes(self) -> int:
        """Process files that were added or removed. Return how many of them are damaged: libsystemd omits these silently."""
        changed = self._files_changed
        try:
            while code := self._journal.process():
                changed = changed or code == _INVALIDATE
        except OSError:
            self.close()
            if not self._open():
                return 0
        self._files_changed = changed
        if not changed:
            return 0
        damaged = damaged_files(self._access.directories) - self._damaged
        self._damaged |= damaged
        return len(damaged)

    def _lost_before(self) -> int:
        """Return how many entries are gone between the last one that was read and the oldest remaining one after it."""
        self._files_changed = False
        last_read = Cursor.parse(self._cursor)
        if last_read is None:
            return 0
        oldest_left = self._access.first_from(self._cursor)
        if oldest_left is None:
            return 0
        missing = last_read.missing_before(oldest_left)
        return _UNKNOWN_LOSS if missing is None else missing

    def _newest_if_due(self) -> str:
        """Return the cursor of the newest entry every ten seconds, and "" in between.

        With a filter that rarely matches, the position follows the newest entry; otherwise every start would read the whole
        journal again. It is read before the entries; otherwise a match that arrives in between would be skipped.
        """
        if time.monotonic() < self._newest_due:
            return ""
        self._newest_due = time.monotonic() + _NEWEST_SECONDS
        return self._access.newest_cursor()


def _silently_missing(previous: Cursor | None, current: Cursor | None, visited: int) -> int:
    """Return how many entries between two cursors libsystemd has omitted, because the middle of a file is damaged."""
    missing = previous.missing_before(current) if previous and current else None
    return max(0, missing + 1 - visited) if missing is not None else 0
