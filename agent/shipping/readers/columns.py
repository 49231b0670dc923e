"""Entries gathered by column. Fields stay bytes; what is not shipped is never looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
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

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = tuple(fields)
        self._all = "*" in fields
        self._times: list[int] = []
        self._rows: list[Any] = []
        self._ids: list[str] = []
        self.cursor = ""

    def add(self, times: Sequence[int], rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> int:
        """Keep some entries; about how many bytes they weigh."""
        self._times += times
        self._ids += ids
        if self._all:
            self._rows += rows
            return sum(sum(map(len, row.values())) for row in rows) + _ENTRY_BYTES * len(rows)
        names = self._fields
        picked = [tuple(map(row.get, names)) for row in rows]
        self._rows += picked
        return sum(map(len, filter(None, chain.from_iterable(picked)))) + _ENTRY_BYTES * len(rows)

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
