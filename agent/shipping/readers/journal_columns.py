"""Entries gathered, and turned into columns. Fields stay bytes; what is not shipped is never looked at.

Entries that follow one another mostly differ in their message alone. The other fields of an entry are a row, which equal
ones share, and whatever is done with rows is done once for each distinct one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.shipping import Batch, Column, Constant

_NOISE = ("_CAP_EFFECTIVE", "_SELINUX_CONTEXT", "_STREAM_ID", "SYSLOG_RAW", "SYSLOG_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP")
"""What "*" leaves out: it tells an operator nothing that another field does not."""
_NO_ROW = ("MESSAGE", *_NOISE)
_ENTRY_BYTES = 300
"""About what an entry weighs besides its fields."""

Value = Any
"""Of a field: bytes, None where an entry has none, a list of bytes where it has several."""
Row = tuple[Any, ...]
"""The values of an entry's fields besides MESSAGE, in the order of the names; with "*" first the names of its fields."""


def whole_row(entry: dict[str, Value]) -> Row:
    """The row of an entry of which all fields are wanted. Takes out of it what does not belong to the row."""
    for name in _NO_ROW:
        entry.pop(name, None)
    return (*entry, *entry.values())


class Rows:
    """Entries as they come, for one batch: whoever reads them appends to `times`, `messages` and `rows`, each row `shared`
    first, and then weighs them. A value longer than `threshold` is cut there.
    """

    def __init__(self, names: Sequence[str], threshold: int) -> None:
        """`names` are those of a row's values, none where each row has its own."""
        self._names = names
        self._threshold = threshold
        self.times: list[int] = []
        self.messages: list[Value] = []
        self.rows: list[Row] = []
        self.ids: list[str] = []
        self.cursor = ""
        self.missing = 0
        self._ended = 0
        self._known: dict[Row, Row] = {}
        self._weights: dict[Row, int] = {}

    def shared(self, row: Row) -> Row:
        """The row to keep in place of an equal one."""
        try:
            return self._known.setdefault(row, row)
        except TypeError:  # an entry has one of the fields several times
            row = tuple(map(_joined, row))
            return self._known.setdefault(row, row)

    def weigh(self, count: int) -> int:
        """About how many bytes the newest entries weigh. Their messages are cut on the way."""
        if not count:
            return 0
        messages, rows = self.messages[-count:], self.rows[-count:]
        try:
            weight = len(b"".join(messages))
        except TypeError:  # one without a message, or with several
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
        """libsystemd cuts long fields where they are compressed, and leaves others whole."""
        return value and value[: self._threshold]

    def end(self, cursor: str, missing: int) -> None:
        """The position after all that was looked at, kept or not, and how many entries are gone on the way there."""
        self.cursor = cursor
        self.missing += missing
        self._ended = len(self.times)

    def back(self) -> None:
        """Forget the entries after the position: they will be read again."""
        for kept in (self.times, self.messages, self.rows, self.ids):
            del kept[self._ended :]

    def batch(self, position: Mapping[str, Any], *, full: bool, lost: int, skipped: int) -> Batch:
        columns: dict[str, Column] = {"MESSAGE": self.messages} if any(message is not None for message in self.messages) else {}
        names, table = self._table()
        same: dict[bytes | None, bytes | None] = {}
        indices: list[int] = []
        for name, values in zip(names, zip(*table, strict=True), strict=False):  # without a row there is no column
            first = self._cut(values[0])
            if values.count(values[0]) < len(values):
                indices = indices or self._indices()
                cut = map(self._cut, values)
                kept = [same.setdefault(value, value) for value in cut]
                columns[name] = list(map(kept.__getitem__, indices))
            elif first is not None:
                columns[name] = Constant(first, len(self.times))
        return Batch(self.times, columns, position, self.ids, full=full, lost=lost, skipped=skipped)

    def _table(self) -> tuple[Sequence[str], Sequence[Row]]:
        """The distinct rows, and the names of their values."""
        if self._names:
            return self._names, list(self._known)
        entries = [dict(zip(row[: len(row) // 2], row[len(row) // 2 :], strict=True)) for row in self._known]
        names = list(dict.fromkeys(name for entry in entries for name in entry))
        return names, [tuple(map(entry.get, names)) for entry in entries]

    def _indices(self) -> list[int]:
        """Of each entry, the number of its row."""
        numbers = {row: number for number, row in enumerate(self._known)}
        return list(map(numbers.__getitem__, self.rows))


def _joined(value: Value) -> bytes | None:
    return b"\n".join(value) if isinstance(value, list) else value
