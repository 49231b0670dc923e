"""Collects journal entries and turns them into columns. Values stay bytes; fields that are not shipped are not processed.

Successive entries mostly differ in their message only. The other fields of an entry form a row. Equal rows are one object,
and each step processes a distinct row once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.shipping import Batch, Column, Constant

_NOISE = ("_CAP_EFFECTIVE", "_SELINUX_CONTEXT", "_STREAM_ID", "SYSLOG_RAW", "SYSLOG_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP")
"""Fields that "*" omits, because other fields give an operator the same information."""
_NOT_IN_ROW = ("MESSAGE", *_NOISE)
_ENTRY_BYTES = 300
"""The approximate size of an entry without its fields."""

Value = Any
"""The value of a field: bytes, None if the entry lacks the field, a list of bytes if it has the field several times."""
Row = tuple[Any, ...]
"""The values of an entry except MESSAGE, in the order of the names. With "*" the names of its fields come first."""


def whole_row(entry: dict[str, Value]) -> Row:
    """Return the row of an entry with all of its fields, and remove from `entry` the fields that the row does not have."""
    for name in _NOT_IN_ROW:
        entry.pop(name, None)
    return (*entry, *entry.values())


class Rows:
    """The entries of one batch. The caller appends to `times`, `messages`, `rows` and `ids`, and then calls `weigh`."""

    def __init__(self, names: Sequence[str], threshold: int) -> None:
        """Collect rows with values of the fields `names`; empty if each row has its own names.

        Values are cut to `threshold` bytes.
        """
        self._names = names
        self._threshold = threshold
        self.times: list[int] = []
        self.messages: list[Value] = []
        self.rows: list[Row] = []
        self.ids: list[str] = []
        self.cursor = ""
        self.missing = 0
        self._finished = 0
        self._distinct: dict[Row, Row] = {}
        self._weights: dict[Row, int] = {}

    def intern(self, row: Row) -> Row:
        """Return the row that represents all rows equal to `row`."""
        try:
            return self._distinct.setdefault(row, row)
        except TypeError:  # the entry has a field several times
            row = tuple(map(_joined, row))
            return self._distinct.setdefault(row, row)

    def weigh(self, count: int) -> int:
        """Return the approximate size in bytes of the newest `count` entries, and cut their messages."""
        if not count:
            return 0
        messages, rows = self.messages[-count:], self.rows[-count:]
        try:
            weight = len(b"".join(messages))
        except TypeError:  # an entry without a message, or with several
            messages = list(map(_joined, messages))
            weight = sum(map(len, filter(None, messages)))
            self.messages[-count:] = messages
        if weight > self._threshold:
            self.messages[-count:] = map(self._cut, messages)
        if rows.count(rows[0]) == count:
            return weight + (self._weight(rows[0]) + _ENTRY_BYTES) * count
        return weight + sum(map(self._weight, rows)) + _ENTRY_BYTES * count

    def _weight(self, row: Row) -> int:
        weight = self._weights.get(row)
        if weight is None:
            values = row if self._names else row[len(row) // 2 :]
            weight = self._weights[row] = sum(map(len, filter(None, values)))
        return weight

    def _cut(self, value: bytes | None) -> bytes | None:
        """Cut a value. libsystemd cuts long fields only if they are compressed."""
        return value and value[: self._threshold]

    def finish(self, cursor: str, missing: int) -> None:
        """Set the position after all entries so far, and add the number of entries that are missing before it."""
        self.cursor = cursor
        self.missing += missing
        self._finished = len(self.times)

    def discard_unfinished(self) -> None:
        """Remove the entries after the position, which will be read again."""
        for kept in (self.times, self.messages, self.rows, self.ids):
            del kept[self._finished :]

    def batch(self, position: Mapping[str, Any], *, full: bool, lost: int, skipped: int) -> Batch:
        """Return the entries by column."""
        columns: dict[str, Column] = {"MESSAGE": self.messages} if any(message is not None for message in self.messages) else {}
        names, table = self._table()
        same: dict[bytes | None, bytes | None] = {}
        indices: list[int] = []
        for name, values in zip(names, zip(*table, strict=True), strict=False):  # without rows there are no columns
            first = self._cut(values[0])
            if values.count(values[0]) < len(values):
                indices = indices or self._indices()
                cut = map(self._cut, values)
                interned = [same.setdefault(value, value) for value in cut]
                columns[name] = list(map(interned.__getitem__, indices))
            elif first is not None:
                columns[name] = Constant(first, len(self.times))
        return Batch(self.times, columns, position, self.ids, full=full, lost=lost, skipped=skipped)

    def _table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """Return the names of the values, and the distinct rows."""
        if self._names:
            return self._names, list(self._distinct)
        entries = [dict(zip(row[: len(row) // 2], row[len(row) // 2 :], strict=True)) for row in self._distinct]
        names = list(dict.fromkeys(name for entry in entries for name in entry))
        return names, [tuple(map(entry.get, names)) for entry in entries]

    def _indices(self) -> list[int]:
        """Return for each entry the index of its row among the distinct ones."""
        numbers = {row: number for number, row in enumerate(self._distinct)}
        return list(map(numbers.__getitem__, self.rows))


def _joined(value: Value) -> bytes | None:
    return b"\n".join(value) if isinstance(value, list) else value
