"""Entries gathered by column. Fields stay bytes; what is not shipped is never looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.shipping import Batch, Column, Constant

_NOISE = frozenset(
    ("_CAP_EFFECTIVE", "_SELINUX_CONTEXT", "_STREAM_ID", "SYSLOG_RAW", "SYSLOG_TIMESTAMP", "_SOURCE_REALTIME_TIMESTAMP")
)
"""What "*" leaves out: it tells an operator nothing that another field does not."""
_ENTRY_BYTES = 300
"""About what an entry weighs besides its message."""
_UNLIKE = frozenset(("MESSAGE",))
"""Fields whose values hardly ever repeat."""

Value = Any
"""Of a field: bytes, None where an entry has none, a list of bytes where it has several."""


def every_name(rows: Iterable[Mapping[str, Value]]) -> list[str]:
    """The fields that "*" stands for in these entries."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _NOISE]


class _Growing:
    """A column as it grows: one value and how many entries have it, or the values, once there is another one."""

    __slots__ = ("_count", "_value", "_values")

    def __init__(self, blank: int) -> None:
        self._value: bytes | None = None
        self._count = blank
        self._values: list[bytes | None] = []

    def add_same(self, value: bytes | None, count: int) -> None:
        if self._values or (self._count and value != self._value):
            self.add([value] * count)
        else:
            self._value = value
            self._count += count

    def add(self, values: Iterable[bytes | None]) -> None:
        self._values += [self._value] * self._count
        self._count = 0
        self._values += values

    def column(self) -> Column:
        return self._values or Constant(self._value, self._count)


class Rows:
    """Entries as they come, for one batch. A value longer than `threshold` is cut there."""

    def __init__(self, fields: Sequence[str], threshold: int) -> None:
        self._all = "*" in fields
        self._threshold = threshold
        self._times: list[int] = []
        self._ids: list[str] = []
        self._columns: dict[str, _Growing] = {} if self._all else {name: _Growing(0) for name in fields}
        self._same: dict[bytes | None, bytes | None] = {}
        self.cursor = ""
        self.missing = 0

    def add(self, raw: Batch) -> int:
        """Keep some entries as libsystemd gives them, each field a `Value`; about how many bytes they weigh."""
        if not len(raw):
            return 0
        before, count = len(self._times), len(raw)
        self._times += raw.times
        self._ids += raw.ids
        weight = _ENTRY_BYTES * count
        if self._all:
            for name in raw.columns:
                if name not in self._columns:
                    self._columns[name] = _Growing(before)
        for name, column in self._columns.items():
            values = raw.columns.get(name)
            if values is None:
                column.add_same(None, count)
                continue
            first = values[0]
            if values.count(first) == count:
                value = self._cut(first)
                column.add_same(value, count)
                weight += len(value or b"") * count
            else:
                weight += self._gather(column, values, unlike=name in _UNLIKE)
        return weight

    def _gather(self, column: _Growing, values: Sequence[Value], *, unlike: bool) -> int:
        """One field of some entries to the end of its column; how many bytes. Equal values are one object: what comes
        after looks at each only once, and a batch of them stays in the processor's cache."""
        try:
            weight = len(b"".join(values))
        except TypeError:  # a field that not all entries have, or one of them several times
            values = [self._cut(value) for value in values]
            weight = sum(map(len, filter(None, values)))
        else:
            if weight > self._threshold:
                values = [self._cut(value) for value in values]
        column.add(values if unlike else map(self._same.setdefault, values, values))
        return weight

    def _cut(self, value: Value) -> bytes | None:
        """libsystemd cuts long fields where they are compressed, and leaves others whole."""
        joined = b"\n".join(value) if isinstance(value, list) else value
        return joined and joined[: self._threshold]

    def end(self, cursor: str, missing: int) -> None:
        """The position after all that was looked at, kept or not, and how many entries are gone on the way there."""
        self.cursor = cursor
        self.missing += missing

    def batch(self, position: Mapping[str, Any], *, full: bool, lost: int, skipped: int) -> Batch:
        grown = {name: column.column() for name, column in self._columns.items()}
        kept = {name: column for name, column in grown.items() if not _is_blank(column)}
        return Batch(self._times, kept, position, self._ids, full=full, lost=lost, skipped=skipped)


def _is_blank(column: Column) -> bool:
    return isinstance(column, Constant) and column.value is None
