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
        self._same: dict[bytes | None, bytes | None] = {}
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
        return _ENTRY_BYTES * len(rows) + (sum(self._gather(name, rows) for name in self._columns) if rows else 0)

    def _gather(self, name: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """One field of all `rows` to the end of its column; how many bytes. Equal values are one object: what comes after
        looks at each only once, and a batch of them stays in the processor's cache."""
        values = [row.get(name) for row in rows]
        if values[0] == values[-1] and values.count(values[0]) == len(values):
            value = self._cut(values[0])
            self._columns[name] += [self._same.setdefault(value, value)] * len(values)
            return len(value or b"") * len(values)
        try:
            weight = len(b"".join(filter(None, values)))
        except TypeError:  # a field that an entry has several times is a list
            weight = self._threshold + 1
        if weight > self._threshold:
            values = [self._cut(value) for value in values]
            weight = len(b"".join(filter(None, values)))
        self._columns[name] += map(self._same.setdefault, values, values)
        return weight

    def _cut(self, value: bytes | list[bytes] | None) -> bytes | None:
        """libsystemd cuts long fields where they are compressed, and leaves others whole."""
        joined = b"\n".join(value) if isinstance(value, list) else value
        return joined and joined[: self._threshold]

    def end(self, cursor: str, missing: int) -> None:
        """The position after all that was looked at, kept or not, and how many entries are gone on the way there."""
        self.cursor = cursor
        self.missing += missing

    def batch(self, position: Mapping[str, Any], *, full: bool, lost: int, skipped: int) -> Batch:
        kept = {name: column for name, column in self._columns.items() if any(value is not None for value in column)}
        return Batch(self._times, kept, position, self._ids, full=full, lost=lost, skipped=skipped)
