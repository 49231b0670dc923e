"""Entries gathered by column. Fields stay bytes; what is not shipped is never looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.shipping import Batch

_NOISE = frozenset(
    ("_CAP_EFFECTIVE", "_SELINUX_CONTEXT", "_STREAM_ID", "SYSLOG_RAW", "SYSLOG_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP")
)
"""What "*" leaves out: it tells an operator nothing that another field does not."""
_ENTRY_BYTES = 300
"""About what an entry weighs besides its message."""


class Rows:
    """Entries as they come, for one batch."""

    def __init__(self, fields: Sequence[str], wants_ids: bool) -> None:
        self._fields = tuple(fields)
        self._all = "*" in fields
        self._wants_ids = wants_ids
        self._times: list[int] = []
        self._rows: list[Any] = []
        self._ids: list[str] = []
        self.cursor = ""

    def add(self, time_us: int, fields: Mapping[str, Any], cursor: Callable[[], str] | None) -> int:
        """Keep an entry; about how many bytes it weighs."""
        self._times.append(time_us)
        if cursor is not None:
            self._ids.append(cursor())
        if self._all:
            self._rows.append(fields)
            return sum(map(len, fields.values())) + _ENTRY_BYTES
        row = tuple(map(fields.get, self._fields))
        self._rows.append(row)
        return sum(map(len, filter(None, row))) + _ENTRY_BYTES

    def end(self, cursor: str) -> None:
        """The position after all that was looked at, kept or not."""
        self.cursor = cursor

    def batch(self, position: Mapping[str, Any], *, full: bool, lost: int, skipped: int) -> Batch:
        names = self._fields
        if self._all:
            names = tuple(dict.fromkeys(name for row in self._rows for name in row if name not in _NOISE))
            self._rows = [tuple(map(row.get, names)) for row in self._rows]
        columns = dict(zip(names, zip(*self._rows, strict=True), strict=False))
        for name, column in columns.items():
            if list in set(map(type, column)):
                columns[name] = tuple(b"\n".join(value) if type(value) is list else value for value in column)
        kept = {name: column for name, column in columns.items() if any(value is not None for value in column)}
        return Batch(self._times, kept, position, self._ids, full=full, lost=lost, skipped=skipped)
