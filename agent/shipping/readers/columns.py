"""Entries gathered by column. Fields stay bytes; what is not shipped is never looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.shipping import Batch

_NOISE = frozenset(
    ("_CAP_EFFECTIVE", "_SELINUX_CONTEXT", "_STREAM_ID", "SYSLOG_RAW", "SYSLOG_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP")
)
"""What "*" leaves out: it tells an operator nothing that another field does not."""
_ENTRY_BYTES = 300
"""About what an entry weighs besides its message."""


class Rows:
    """Entries as they come, for one batch. A value longer than `threshold` is cut there."""

    def __init__(self, fields: Sequence[str], threshold: int) -> None:
        self._all = "*" in fields
        self._threshold = threshold
        self._times: list[int] = []
        self._ids: list[str] = []
        self._columns: dict[str, list[bytes | None]] = {} if self._all else {name: [] for name in fields}
        self.cursor = ""
        self.missing = 0

    def add(self, times: Sequence[int], rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> int:
        """Keep some entries; about how many bytes they weigh."""
        if self._all:
            for name in dict.fromkeys(name for row in rows for name in row if name not in _NOISE):
                if name not in self._columns:
                    self._columns[name] = [None] * len(self._times)
        self._times += times
        self._ids += ids
        size = _ENTRY_BYTES * len(rows)
        for name, column in self._columns.items():
            values = [row.get(name) for row in rows]
            try:
                weight = len(b"".join(filter(None, values)))
            except TypeError:  # a field that an entry has several times is a list
                values = [b"\n".join(value) if type(value) is list else value for value in values]
                weight = len(b"".join(filter(None, values)))
            if weight > self._threshold:
                # libsystemd cuts long fields where they are compressed, and leaves others whole
                values = [value and value[: self._threshold] for value in values]
            column += values
            size += weight
        return size

    def end(self, cursor: str, missing: int) -> None:
        """The position after all that was looked at, kept or not, and how many entries are gone on the way there."""
        self.cursor = cursor
        self.missing += missing

    def batch(self, position: Mapping[str, Any], *, full: bool, lost: int, skipped: int) -> Batch:
        kept = {name: column for name, column in self._columns.items() if column.count(None) < len(column)}
        return Batch(self._times, kept, position, self._ids, full=full, lost=lost, skipped=skipped)
